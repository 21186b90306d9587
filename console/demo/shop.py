"""The client of the demo: submits orders, repeats itself as clients do, and watches the orders' families end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import orjson

from console.demo.plan import Order

HANDS = 12
#: Jobs that are asked for in one request.
TOGETHER = 100
TRIES = 20


class NotAcceptedError(Exception):
    """A submission that the intake did not take."""


class Shop:
    """`ids`: by key, all the ids that its submissions were answered with; more than one is a fault."""

    def __init__(self, client: httpx2.Client) -> None:
        self.ids: dict[str, set[str]] = {}
        self.states: dict[str, str] = {}
        self._client = client
        self._hands = ThreadPoolExecutor(HANDS)

    def submit(self, orders: Sequence[Order]) -> None:
        """Returns when each has been accepted. The repetitions of one come at the same time."""
        wishes = [order for order in orders for _ in range(order.times)]
        for order, job_id in zip(wishes, self._hands.map(self._submit_one, wishes), strict=True):
            self.ids.setdefault(order.key, set()).add(job_id)
            self.states.setdefault(job_id, "active")

    def look(self) -> Counter[str]:
        """How many families are in which state."""
        active = [job_id for job_id, state in self.states.items() if state == "active"]
        for at in range(0, len(active), TOGETHER):
            found = self._client.get("/v1/jobs", params={"ids": ",".join(active[at : at + TOGETHER])}).raise_for_status()
            for job in orjson.loads(found.content)["items"]:
                self.states[job["id"]] = job["family"]["state"]
        return Counter(self.states.values())

    def forget_state(self, job_id: str) -> None:
        """It may change once more."""
        self.states[job_id] = "active"

    def close(self) -> None:
        self._hands.shutdown()
        self._client.close()

    def _submit_one(self, order: Order) -> str:
        body = orjson.dumps({"command": "orders.place", "payload": order.payload, "labels": {"source": "demo"}})
        headers = {"content-type": "application/json", "idempotency-key": order.key}
        for _ in range(TRIES):
            answer = self._client.post("/v1/jobs", content=body, headers=headers)
            if answer.status_code == 202:
                accepted: dict[str, Any] = orjson.loads(answer.content)
                return accepted["id"]
            if answer.status_code not in {409, 503}:
                break
            time.sleep(0.25)  # the same key, so that it is safe to ask again
        raise NotAcceptedError(f"order {order.key} was answered with {answer.status_code}: {answer.text[:500]}")  # pyright: ignore[reportPossiblyUnboundVariable]
