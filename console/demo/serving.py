"""Run a demo service: in this process until it is interrupted, or in a thread for as long as a `with` block."""

from __future__ import annotations

import argparse
import contextlib
import socket
import threading
from collections.abc import Callable, Generator

import uvicorn
from starlette.applications import Starlette


def main(what: str, create_app: Callable[..., Starlette]) -> None:
    """The command line of both services. Prints its address once it accepts connections."""
    parser = argparse.ArgumentParser(description=f"A small {what} with books of its own and faults to switch on.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--naive", action="store_true", help="ignore idempotency keys: every request is done anew")
    chosen = parser.parse_args()
    with socket.create_server((chosen.host, chosen.port)) as listener:
        print(f"{what} at {_url(listener)}", flush=True)
        _server(create_app(naive=chosen.naive)).run(sockets=[listener])


@contextlib.contextmanager
def running(app: Starlette) -> Generator[str]:
    """Serve from a thread, at a free port. Gives the address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = _server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="demo-service", daemon=True)
    thread.start()
    try:
        yield _url(listener)
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def _server(app: Starlette) -> uvicorn.Server:
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", ws="none", timeout_keep_alive=5, timeout_graceful_shutdown=1
    )
    return uvicorn.Server(config)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{host}:{port}"
