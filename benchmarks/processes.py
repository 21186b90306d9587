"""Processes that are measured: started in groups, their processor time read from /proc, stopped together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from console.servers.guard import Guard

TICK = os.sysconf("SC_CLK_TCK")
ROOT = Path(__file__).parents[1]


class Processes:
    """What one contender runs, by role. Gone when the benchmark is gone, however it ends."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._guard = Guard()
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._asked: dict[str, tuple[Sequence[str], Mapping[str, str]]] = {}

    def start(self, role: str, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with (self._logs / f"{role}.log").open("ab") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        self._guard.watch(process.pid, signal.SIGTERM)
        self._started[role] = process
        self._asked[role] = command, environment
        return process

    def kill(self, role: str) -> None:
        """SIGKILL, to it and all that it started."""
        process = self._started.pop(role)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._guard.forget(process.pid)

    def start_again(self, role: str) -> None:
        """Killed first, as it was started before."""
        self.kill(role)
        self.start(role, *self._asked[role])

    def ended(self) -> list[str]:
        return [role for role, process in self._started.items() if process.poll() is not None]

    def pids(self) -> dict[str, int]:
        return {role: process.pid for role, process in self._started.items()}

    def check(self) -> None:
        """Raises RuntimeError when one of them has ended."""
        for role, process in self._started.items():
            if process.poll() is not None:
                raise RuntimeError(f"{role} ended with status {process.returncode}; see {self._logs / role}.log")

    def close(self) -> None:
        for process in self._started.values():
            for number in (signal.SIGCONT, signal.SIGTERM):
                process.send_signal(number)
        for process in self._started.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            self._guard.forget(process.pid)
        self._guard.close()


def processor_seconds(roots: Mapping[str, int]) -> dict[str, float]:
    """What each process and all below it have used so far, those that have ended included."""
    children: dict[int, list[int]] = defaultdict(list)
    ticks: dict[int, int] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                stat = Path(entry.path, "stat").read_text()
            except OSError:
                continue
            fields = stat[stat.rindex(")") + 2 :].split()
            children[int(fields[1])].append(int(entry.name))
            ticks[int(entry.name)] = sum(map(int, fields[11:15]))
    return {role: _sum(root, children, ticks) / TICK for role, root in roots.items()}


def _sum(root: int, children: Mapping[int, Sequence[int]], ticks: Mapping[int, int]) -> int:
    return ticks.get(root, 0) + sum(_sum(child, children, ticks) for child in children.get(root, ()))


def machine_seconds() -> float:
    """Busy processor time of the whole machine: more than the groups together means that others were at work, too."""
    values = [int(value) / TICK for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return sum(values[:3]) + values[5] + values[6]


def settle(*, quiet: float = 0.15, timeout: float = 30) -> bool:
    """Wait until the whole machine uses less than `quiet` of a core, a second long: servers that are not done yet, and whoever else is at work."""
    until = time.monotonic() + timeout
    last, calm = machine_seconds(), 0
    while calm < 5 and time.monotonic() < until:
        time.sleep(0.2)
        now = machine_seconds()
        calm = calm + 1 if now - last <= quiet * 0.2 + 1 / TICK else 0
        last = now
    return calm >= 5


def calibrate() -> float:
    """Processor milliseconds of a fixed loop: how fast this machine is just now."""
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        sum(i & 7 for i in range(200_000))
        best = min(best, time.process_time() - start)
    return round(best * 1000, 2)


def answers(url: str) -> bool:
    """Whether somebody speaks HTTP there."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
