"""A process that is told to stop ends with its own status, however often it is told."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys, threading
from config.signals import on_stop
stopped = threading.Event()
on_stop(stopped.set)
print("ready", flush=True)
while not stopped.wait(0.01):
    pass
sys.exit(3)
"""


def test_told_again_and_again_until_it_is_gone():
    for _ in range(10):
        with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            while process.poll() is None:
                process.terminate()
            assert process.returncode == 3
