"""`haulier` as people run it: commands as processes of their own, and a `haulier dev` to run them against."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import psutil

from tests.crash.rig import eventually

ROOT = Path(__file__).parents[2]
READY = "written to"
HAULIER = [sys.executable, "-m", "console.main"]


def environment(**settings: str) -> dict[str, str]:
    """Nothing of the person's own settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HAULIER_")}
    return {**inherited, "PYTHONPATH": str(ROOT), "HAULIER_HANDLERS": "tests.console.commands:HANDLERS", **settings}


def haulier(*arguments: str, cwd: Path, given: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*HAULIER, *arguments], cwd=cwd, env=environment(**settings), input=given, capture_output=True, text=True, timeout=100, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@contextmanager
def reachable_directory() -> Iterator[Path]:
    """One that the account of an embedded Postgres reaches too (pytest's own it does not)."""
    with TemporaryDirectory(prefix="haulier-test-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


class Dev:
    """A `haulier dev` in `directory`, in its default data directory. `start` and `kill` as often as wanted."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory = directory
        self.data = directory / ".haulier" / "dev"
        self.log_file = directory / "dev.log"
        self._token = secrets.token_hex(8)
        # Quick, so that what was killed is taken back soon.
        self._settings = {"HAULIER_HEARTBEAT": "0.5", "HAULIER_LEASE": "3", "HAULIER_TICK": "0.3", "HAULIER_TEST": self._token, **settings}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.log_file.touch()
        before = self.log().count(READY)
        with self.log_file.open("ab") as output:
            self._process = subprocess.Popen(
                [*HAULIER, "dev", "--port", "0"], cwd=self.directory, env=environment(**self._settings), stdout=output, stderr=output
            )
        is_ready = lambda: self.log().count(READY) > before and (self.data / "dev.json").exists()  # noqa: E731
        eventually(lambda: self.code is not None or is_ready(), 90, self.log)
        assert self.code is None, self.log()

    @property
    def code(self) -> int | None:
        return self._process.poll() if self._process is not None else None

    @property
    def announced(self) -> dict[str, Any]:
        return json.loads((self.data / "dev.json").read_bytes())

    @property
    def database_url(self) -> str:
        return (self.data / "database-url").read_text().strip()

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(60)

    def kill(self) -> None:
        """The supervisor alone: what it leaves is part of the test."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def processes(self, word: str = "") -> list[psutil.Process]:
        """All that it started and that still runs, whoever its parent is by now; with `word` in the command line."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and self._is_ours(process) and word in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def run(self, *arguments: str, given: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
        """A command in its directory, which is enough to find it."""
        return haulier(*arguments, cwd=self.directory, given=given, **settings)

    def ask(self, *arguments: str) -> Any:
        """What a command says as JSON."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def submit(self, command: str, payload: dict[str, Any], **fields: Any) -> str:
        """Over HTTP, for what the command line does not offer; repeated, as clients do, when its child is just being replaced."""
        headers = {"authorization": f"Bearer {self.announced['keys']['submitter']}", "idempotency-key": secrets.token_hex(8)}
        body = {"command": command, "payload": payload, **fields}
        for _ in range(20):
            with suppress(httpx2.TransportError):
                answer = httpx2.post(f"{self.announced['url']}/v1/jobs", json=body, headers=headers, trust_env=False, timeout=30)
                assert answer.status_code == 202, answer.text
                return answer.json()["id"]
        raise AssertionError(f"the intake does not answer\n{self.log()[-3000:]}")

    def job(self, job_id: str) -> Any:
        """None while the intake is away."""
        headers = {"authorization": f"Bearer {self.announced['keys']['submitter']}"}
        with suppress(httpx2.TransportError):
            answer = httpx2.get(f"{self.announced['url']}/v1/jobs/{job_id}", headers=headers, trust_env=False, timeout=30)
            return answer.json() if answer.is_success else None
        return None

    def wait_for(self, job_id: str, state: str, seconds: float = 60) -> Any:
        eventually(lambda: (self.job(job_id) or {}).get("state") == state, seconds, lambda: f"{self.job(job_id)}\n{self.log()[-5000:]}")
        return self.job(job_id)

    def _is_ours(self, process: psutil.Process) -> bool:
        """The servers do not get our environment; but they stand in our directory, or name it."""
        known_by = (str(self.directory), self._token)
        return (
            process.cwd().startswith(known_by[0])
            or any(known_by[0] in word for word in process.cmdline())
            or (process.environ().get("HAULIER_TEST") == known_by[1])
        )


@contextmanager
def running_dev(**settings: str) -> Iterator[Dev]:
    """Started, and at the end stopped: nothing of it runs any more."""
    with reachable_directory() as directory:
        dev = Dev(directory, **settings)
        try:
            dev.start()
            yield dev
            if dev.code is None:
                assert dev.stop() == 0, dev.log()
            eventually(lambda: not dev.processes(), 30, lambda: f"still there: {dev.processes()}\n{dev.log()[-3000:]}")
        finally:
            dev.kill()
            for process in dev.processes():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
