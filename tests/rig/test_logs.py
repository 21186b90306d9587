"""What a process logs, as it comes out of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

SAYS = """
import structlog
from config import logs
logs.configure({format!r})
log = structlog.get_logger()
log.info("one\\nforged", fact="a\\nb")
log.warning("two")
"""


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_line_is_one_write_so_that_processes_may_share_a_pipe(log_format: str):
    """Of a datagram socket each write is read by itself. Python writes through when it is unbuffered, as in our container."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, its:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        subprocess.run([sys.executable, "-c", SAYS.format(format=log_format)], stderr=its.fileno(), env=environment, check=True)
        ours.settimeout(5)
        lines = [ours.recv(1 << 16).decode() for _ in range(2)]

    assert [(line.count("\n"), line[-1]) for line in lines] == [(1, "\n")] * 2
    assert "forged" in lines[0]
    assert "two" in lines[1]
