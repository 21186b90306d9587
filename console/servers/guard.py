"""The last one out: a small process that stops an owner's servers and removes its directories when the owner is gone, kill -9 included.

The owner holds the writing end of the guard's standard input and names on it what is to be stopped; that it ends, in whatever way,
is the signal. Run as a script of its own, so nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

#: A server is given this long to stop in order before it is killed.
GRACE = 10.0


class Guard:
    """The owner's side."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-S", __file__, str(os.getpid())]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", start_new_session=True
        )

    def watch(self, group: int, stop: signal.Signals) -> None:
        """Stop this process group with `stop`, and with SIGKILL if that does not do."""
        self._say(f"watch {group} {stop.value}")

    def forget(self, group: int) -> None:
        self._say(f"forget {group}")

    def remove(self, directory: Path) -> None:
        """Remove this directory after all groups have stopped."""
        self._say(f"remove {directory}")

    def close(self) -> None:
        """Do it all now."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()


@dataclass
class Watched:
    """What one owner asked for."""

    #: Process group → the signal that stops it, and when its leader was born.
    groups: dict[int, tuple[int, str]] = field(default_factory=dict[int, tuple[int, str]])
    directories: list[Path] = field(default_factory=list[Path])

    def heed(self, line: str) -> None:
        verb, _, rest = line.partition(" ")
        match verb:
            case "watch":
                group, stop = map(int, rest.split())
                self.groups[group] = stop, birth(group)
            case "forget":
                self.groups.pop(int(rest), None)
            case _:
                self.directories.append(Path(rest))


def birth(process: int) -> str:
    """When a process was born, so that another one under its recycled id is left alone; empty when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return "unknown" if not Path("/proc/self").exists() and _exists(process) else ""
    except ProcessLookupError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _exists(process: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


def listen(owner: int, watched: Watched) -> None:
    """Returns when the owner is gone. Its id is looked at as well: a forked child of it may hold the pipe open."""
    os.set_blocking(0, False)
    rest = b""
    gone = False
    while not gone:
        gone = os.getppid() != owner
        if not select.select([0], [], [], 0 if gone else 0.5)[0]:
            continue
        chunk = os.read(0, 65536)
        gone = gone or not chunk
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            watched.heed(line.decode())


def end(watched: Watched) -> None:
    groups = {group: stop for group, (stop, born) in watched.groups.items() if born and birth(group) == born}
    for group, stop in groups.items():
        _signal(group, stop)
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline and any(birth(group) for group in groups):
        time.sleep(0.02)
    for group in groups:
        _signal(group, signal.SIGKILL)
    for directory in watched.directories:
        _remove(directory)


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _remove(directory: Path) -> None:
    # What has been killed may still be writing its last file.
    for _ in range(100):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(0.05)


def main(owner: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watched = Watched()
    listen(owner, watched)
    end(watched)


if __name__ == "__main__":
    main(int(sys.argv[1]))
