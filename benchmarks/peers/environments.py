"""A virtual environment for each peer, made by pip when it is first wanted: nothing of theirs is among our dependencies."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.processes import ROOT

DIRECTORY = ROOT / ".venv-peers"


class InstallError(Exception):
    """Pip could not have what a peer needs."""


def python_of(name: str, packages: tuple[str, ...]) -> Path:
    """Its Python, with exactly these packages; a minute's work at the first time. Raises InstallError."""
    directory = DIRECTORY / name
    python = directory / "bin" / "python"
    installed = directory / "installed.txt"
    wanted = "\n".join(packages)
    if installed.exists() and installed.read_text() == wanted and python.exists():
        return python
    print(f"installing {name} ({', '.join(packages)}) into {directory.relative_to(ROOT)}; the first time only", file=sys.stderr, flush=True)
    shutil.rmtree(directory, ignore_errors=True)
    venv.create(directory, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise InstallError(
            f"{name} is measured beside Haulier and pip could not install it; without it: --peers none, or --contenders.\n"
            f"{' '.join(pip)}\n{(done.stdout + done.stderr)[-2000:]}"
        )
    installed.write_text(wanted)
    return python
