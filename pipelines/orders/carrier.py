"""The carrier as `orders.ship` calls it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from uuid import UUID

from pydantic import BaseModel, Field

from pipelines.orders.cart import Address, Line
from pipelines.orders.service import GarbledAnswer, Service
from pipelines.orders.settings import settings


class Booked(BaseModel):
    """The carrier has taken the parcel on."""

    id: str = Field(min_length=1, max_length=255)
    reference: str
    tracking: str = Field(min_length=1, max_length=255)


class Carrier:
    """A carrier that honours idempotency keys: the same key is the same parcel."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def ship(self, order_id: UUID, address: Address, lines: Sequence[Line], *, idempotency_key: str) -> Booked:
        body = {"reference": str(order_id), "address": address.model_dump(), "lines": [line.model_dump() for line in lines]}
        booked = self.service.post("/shipments", body, idempotency_key, {201: Booked})
        if booked.reference != str(order_id):
            raise GarbledAnswer(f"the carrier was asked to ship order {order_id} and says it shipped {booked.reference} as {booked.id}")
        return booked


#: `cache` alone would let threads that come first together each create one, with a breaker of its own.
_creating = threading.Lock()


def carrier() -> Carrier:
    """The process's carrier, where the settings say. Raises MissingSettingError."""
    with _creating:
        return _carrier(settings().need_carrier(), settings().carrier_timeout)


@functools.cache
def _carrier(url: str, timeout: float) -> Carrier:
    return Carrier(Service("the carrier", url, timeout))
