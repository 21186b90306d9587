"""A carrier, outside Haulier: `python -m console.demo.carrier --port N`. It takes a parcel once for each key and keeps its own books.

`POST /shipments` {reference, address, lines} with an `Idempotency-Key` → 201 booked, 422 undeliverable · `GET /books` · `POST /faults`
"""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from console.demo import serving
from console.demo.faults import Fault, Faults, away, broken, busy, garbage, refusal

#: A country that nothing is delivered to (ISO 3166 leaves it to users).
NOWHERE = "ZZ"


class Wish(BaseModel):
    """What a merchant asks for. `reference` is the merchant's name for the order: it is shipped once, under whatever key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reference: str = Field(min_length=1, max_length=255)
    address: dict[str, str]
    lines: list[dict[str, str | int]] = Field(min_length=1)


class Carrier:
    """`naive`: it ignores keys and references and ships again."""

    def __init__(self, *, naive: bool = False) -> None:
        self.faults = Faults(["outage", "busy", "slow", "error_after", "declined", "garbage"])
        self._naive = naive
        self._requests = 0
        self._repeats = 0
        self._shipments: list[dict[str, Any]] = []
        self._by_reference: dict[str, dict[str, Any]] = {}
        self._answers: dict[str, tuple[Wish, dict[str, Any]]] = {}

    async def ship(self, request: Request) -> Response:
        """The endpoint. Between the books being read and written nothing is awaited, so no two requests overlap."""
        self._requests += 1
        fault = self.faults.next()
        if fault.mode == "outage":
            return away()
        if fault.mode == "busy":
            return busy()
        key = request.headers.get("Idempotency-Key")
        if not key:
            return refusal(400, "no_key", "a shipment needs an Idempotency-Key")
        try:
            wish = Wish.model_validate_json(await request.body())
        except ValidationError as error:
            return refusal(422, "bad_shipment", str(error))
        if fault.mode == "declined" or wish.address.get("country") == NOWHERE:
            return refusal(422, "undeliverable", "nothing is delivered to this address")
        return await self._answer(fault, *self._once(key, wish))

    async def books(self, _request: Request) -> Response:
        return JSONResponse({"shipments": self._shipments, "requests": self._requests, "repeats": self._repeats})

    def _once(self, key: str, wish: Wish) -> tuple[int, dict[str, Any]]:
        known = None if self._naive else self._answers.get(key)
        if known is not None:
            self._repeats += 1
            first, answer = known
            return (
                (201, answer) if first == wish else (422, {"error": "key_reused", "detail": "this key came with another shipment before"})
            )
        earlier = self._by_reference.get(wish.reference)
        if earlier is not None and not self._naive:
            return 422, {"error": "already_shipped", "detail": f"{wish.reference} was shipped before, as {earlier['id']}"}
        number = len(self._shipments) + 1
        answer = {"id": f"sh_{number:06}", "reference": wish.reference, "tracking": f"HL{number:09}"}
        self._shipments.append({**answer, "lines": wish.lines, "key": key})
        self._by_reference[wish.reference] = answer
        self._answers[key] = (wish, answer)
        return 201, answer

    async def _answer(self, fault: Fault, status: int, answer: dict[str, Any]) -> Response:
        match fault.mode:
            case "slow":
                await asyncio.sleep(fault.seconds)
            case "error_after":
                return broken()
            case "garbage":
                return garbage()
            case _:
                pass
        return JSONResponse(answer, status)


def create_app(*, naive: bool = False) -> Starlette:
    """A carrier with empty books."""
    carrier = Carrier(naive=naive)
    return Starlette(
        routes=[
            Route("/shipments", carrier.ship, methods=["POST"]),
            Route("/books", carrier.books, methods=["GET"]),
            Route("/faults", carrier.faults.switch, methods=["POST"]),
        ]
    )


if __name__ == "__main__":
    serving.main("carrier", create_app)
