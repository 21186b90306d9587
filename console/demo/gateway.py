"""A payment gateway, outside Haulier: `python -m console.demo.gateway --port N`. It takes money once for each key and keeps its own books.

`POST /charges` {reference, amount, currency, card_token} with an `Idempotency-Key` → 201 captured, 402 declined ·
`GET /books` · `POST /faults`
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

DECLINED_CARD = "tok_declined"


class Wish(BaseModel):
    """What a merchant asks for. `reference` is the merchant's name for the order: it is charged once, under whatever key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reference: str = Field(min_length=1, max_length=255)
    amount: int = Field(gt=0, strict=True)
    currency: str = Field(pattern="^[A-Z]{3}$")
    card_token: str = Field(min_length=1, max_length=255)


class Gateway:
    """`naive`: as bad as gateways come; it ignores keys and references and charges again."""

    def __init__(self, *, naive: bool = False) -> None:
        self.faults = Faults(["outage", "busy", "slow", "error_after", "declined", "garbage", "wrong_amount"])
        self._naive = naive
        self._requests = 0
        self._repeats = 0
        self._charges: list[dict[str, Any]] = []
        self._by_reference: dict[str, dict[str, Any]] = {}
        self._declined = 0
        self._answers: dict[str, tuple[Wish, int, dict[str, Any]]] = {}

    async def charge(self, request: Request) -> Response:
        """The endpoint. Between the books being read and written nothing is awaited, so no two requests overlap."""
        self._requests += 1
        fault = self.faults.next()
        if fault.mode == "outage":
            return away()
        if fault.mode == "busy":
            return busy()
        key = request.headers.get("Idempotency-Key")
        if not key:
            return refusal(400, "no_key", "a charge needs an Idempotency-Key")
        try:
            wish = Wish.model_validate_json(await request.body())
        except ValidationError as error:
            return refusal(422, "bad_charge", str(error))
        return await self._answer(fault, *self._once(key, wish, declined=fault.mode == "declined"))

    async def books(self, _request: Request) -> Response:
        captured = sum(charge["amount"] for charge in self._charges)
        seen = {"requests": self._requests, "repeats": self._repeats, "declined": self._declined}
        return JSONResponse({"charges": self._charges, "captured": captured, **seen})

    def _once(self, key: str, wish: Wish, *, declined: bool) -> tuple[int, dict[str, Any]]:
        known = None if self._naive else self._answers.get(key)
        if known is None:
            status, answer = self._do(key, wish, declined=declined)
            if status in {201, 402}:
                self._answers[key] = (wish, status, answer)
            return status, answer
        self._repeats += 1
        first, status, answer = known
        if first != wish:
            return 422, {"error": "key_reused", "detail": "this Idempotency-Key came with another charge before"}
        return status, answer

    def _do(self, key: str, wish: Wish, *, declined: bool) -> tuple[int, dict[str, Any]]:
        if declined or wish.card_token == DECLINED_CARD:
            self._declined += 1
            return 402, {"status": "declined", "reason": "insufficient funds"}
        earlier = self._by_reference.get(wish.reference)
        if earlier is not None and not self._naive:
            return 422, {"error": "already_charged", "detail": f"{wish.reference} was charged before, as {earlier['id']}"}
        charge = {"id": f"ch_{len(self._charges) + 1:06}", "reference": wish.reference, "amount": wish.amount, "currency": wish.currency}
        self._charges.append({**charge, "key": key})
        self._by_reference[wish.reference] = charge
        return 201, {"status": "captured", **charge}

    async def _answer(self, fault: Fault, status: int, answer: dict[str, Any]) -> Response:
        match fault.mode:
            case "slow":
                await asyncio.sleep(fault.seconds)
            case "error_after":
                return broken()
            case "garbage":
                return garbage()
            case "wrong_amount" if status == 201:
                answer = {**answer, "amount": answer["amount"] + 1}
            case _:
                pass
        return JSONResponse(answer, status)


def create_app(*, naive: bool = False) -> Starlette:
    """A gateway with empty books."""
    gateway = Gateway(naive=naive)
    return Starlette(
        routes=[
            Route("/charges", gateway.charge, methods=["POST"]),
            Route("/books", gateway.books, methods=["GET"]),
            Route("/faults", gateway.faults.switch, methods=["POST"]),
        ]
    )


if __name__ == "__main__":
    serving.main("payment gateway", create_app)
