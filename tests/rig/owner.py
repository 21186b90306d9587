"""An owner of private servers, for tests that kill it. Prints what it started as JSON, then waits to be killed.

Usage: owner.py [DIRECTORY of a lasting Postgres; without it, temporary servers of each kind]
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path

import psutil

from console.servers.find import rabbitmq_node, redis_server
from console.servers.postgres import PostgresServer


def command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # Postgres forks one for each connection
        return "gone"


def main() -> None:
    with ExitStack() as stack:
        lasting = [PostgresServer(Path(argument)) for argument in sys.argv[1:]]
        wanted = lasting or [PostgresServer(), rabbitmq_node(schedulers=1), redis_server()]
        servers = [stack.enter_context(server) for server in wanted]
        processes = {process.pid: command(process) for process in psutil.Process().children(recursive=True)}
        started = {
            "processes": processes,
            "servers": [server.pid for server in servers],
            "directories": [str(server.directory) for server in servers],
            "urls": [server.url for server in servers],
        }
        print(json.dumps(started), flush=True)
        sys.stdin.read()


main()
