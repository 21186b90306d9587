"""A process that is told to stop ends with its own status, also when it is told once more at the very end."""

from __future__ import annotations

import subprocess
import sys

#: When modules are taken down, Python has given up its handlers.
PROGRAM = """
import os, signal, sys, threading
from config.signals import on_stop

class Last:
    def __del__(self, kill=os.kill, me=os.getpid(), number=signal.{name}):
        print("told once more", flush=True)
        kill(me, number)

last = Last()
stopped = threading.Event()
on_stop(stopped.set)
os.kill(os.getpid(), signal.{name})
stopped.wait()
sys.exit(3)
"""


def test_told_once_more_in_pythons_last_moment():
    for name in ("SIGTERM", "SIGINT"):
        done = subprocess.run([sys.executable, "-c", PROGRAM.format(name=name)], capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, done.stdout) == (3, "told once more\n"), done.stderr
