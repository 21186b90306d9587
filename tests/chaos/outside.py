"""What stands outside: a payment gateway, a carrier and a service that is called by the crash tests' commands, in a process of their own.

`python -m tests.chaos.outside DIRECTORY`: what they do they write into the history, and nobody tells them of a fault but `POST /faults`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from console.demo.carrier import Carrier
from console.demo.faults import Faults, away, broken, busy
from console.demo.gateway import Gateway
from console.servers.process import free_port
from tests.chaos.history import Writer


class Outside:
    """One switch for all three. An effect's `job` is read from its key, which the product makes as job:step:generation."""

    def __init__(self, writer: Writer) -> None:
        self.faults = Faults(["outage", "busy", "slow", "error_after"])
        self._writer = writer
        self._gateway = Gateway()
        self._carrier = Carrier()
        self._gateway.faults = self._carrier.faults = self.faults
        self._called: set[str] = set()
        #: How many entries of its books are in the history.
        self._noted = {"charge": 0, "ship": 0}

    async def charge(self, request: Request) -> Response:
        return await self._recorded("charge", self._gateway._charges, self._gateway.charge, request)

    async def ship(self, request: Request) -> Response:
        return await self._recorded("ship", self._carrier._shipments, self._carrier.ship, request)

    async def _recorded(self, step: str, books: list[dict[str, Any]], serve: Any, request: Request) -> Response:
        answer = await serve(request)
        new, self._noted[step] = books[self._noted[step] :], len(books)
        for entry in new:
            self._note("ok", step, entry["key"], {name: entry.get(name) for name in ("id", "reference", "amount")})
        return answer

    async def call(self, request: Request) -> Response:
        fault = self.faults.next()
        if fault.mode in {"outage", "busy"}:
            return away() if fault.mode == "outage" else busy()
        key = request.path_params["key"]
        self._note("info" if key in self._called else "ok", key.split(":")[1], key, {})
        self._called.add(key)
        if fault.mode == "slow":
            await asyncio.sleep(fault.seconds)
        return broken() if fault.mode == "error_after" else JSONResponse({})

    def _note(self, kind: Any, step: str, key: str, facts: dict[str, Any]) -> None:
        self._writer.write(kind, "effect", key=key, job=key.split(":", maxsplit=1)[0], value={"step": step, **facts})


def create_app(writer: Writer) -> Starlette:
    outside = Outside(writer)
    return Starlette(
        routes=[
            Route("/charges", outside.charge, methods=["POST"]),
            Route("/shipments", outside.ship, methods=["POST"]),
            Route("/calls/{key:path}", outside.call, methods=["POST"]),
            Route("/faults", outside.faults.switch, methods=["POST"]),
        ]
    )


def main() -> None:
    port = free_port()
    print(f"http://127.0.0.1:{port}", flush=True)
    uvicorn.run(create_app(Writer(Path(sys.argv[1]), "outside")), port=port, log_level="warning", access_log=False, lifespan="off")


if __name__ == "__main__":
    main()
