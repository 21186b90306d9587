"""The payment gateway as `orders.charge` calls it."""

from __future__ import annotations

import functools
import threading
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, Field

from pipelines.orders.schema import CURRENCY
from pipelines.orders.service import GarbledAnswer, Service
from pipelines.orders.settings import settings


class Captured(BaseModel):
    """The money has been taken."""

    status: Literal["captured"]
    id: str = Field(min_length=1, max_length=255)
    reference: str
    amount: int = Field(strict=True)
    currency: str


class Declined(BaseModel):
    """The card's issuer said no; nothing has been taken."""

    status: Literal["declined"]
    reason: str = Field(max_length=500)


class Gateway:
    """A gateway that honours idempotency keys: the same key is the same charge, however often it is asked for."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def charge(self, order_id: UUID, amount: int, card_token: str, *, idempotency_key: str) -> Captured | Declined:
        """Raises GarbledAnswer, among others, when what the gateway says it took is not what it was asked to take."""
        body = {"reference": str(order_id), "amount": amount, "currency": CURRENCY, "card_token": card_token}
        answers: dict[int, type[Captured | Declined]] = {201: Captured, 402: Declined}
        answer = self.service.post("/charges", body, idempotency_key, answers)
        if isinstance(answer, Captured):
            _check(answer, order_id, amount)
        return answer


def _check(answer: Captured, order_id: UUID, amount: int) -> None:
    asked, said = (str(order_id), amount, CURRENCY), (answer.reference, answer.amount, answer.currency)
    if asked != said:
        raise GarbledAnswer(f"the gateway was asked to charge {asked} and says it charged {said} as {answer.id}; nothing was booked")


#: `cache` alone would let threads that come first together each create one, with a breaker of its own.
_creating = threading.Lock()


def gateway() -> Gateway:
    """The process's gateway, where the settings say. Raises MissingSettingError."""
    with _creating:
        return _gateway(settings().need_gateway(), settings().gateway_timeout)


@functools.cache
def _gateway(url: str, timeout: float) -> Gateway:
    return Gateway(Service("the payment gateway", url, timeout))
