"""The load: clients of several tenants, each on a thread of its own, that submit over HTTP as the product's callers are told to (with a key, again
until there is an answer), and look at what they submitted. What they ask and are told goes into the history.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from console.demo.carrier import NOWHERE
from console.demo.gateway import DECLINED_CARD
from console.demo.plan import ADDRESS, DISCOUNTS, PRICES, SCARCE
from tests.chaos.history import Type, Writer

#: Seconds: for one answer; between two tries; until a client gives up on a wish.
ANSWER, BREATH, PATIENCE = 12.0, 0.3, 90.0
#: How far clients fall behind their rate before they stop catching up.
CATCH_UP = 20.0
#: Command → how often.
MIX = {
    "crash.count": 20, "crash.plain": 15, "crash.call": 15, "crash.chain": 10, "crash.share": 12, "crash.many": 12, "crash.fail": 4, "crash.snooze": 4,
    "orders.place": 16, "crash.kill": 0.05,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wish:
    """`ends`: command → how it may end other than well, follow-ups included."""

    command: str
    payload: dict[str, Any]
    ends: dict[str, list[str]] = field(default_factory=dict[str, list[str]])


def make_wish(chance: random.Random) -> Wish:
    command = chance.choices(list(MIX), list(MIX.values()))[0]
    match command:
        case "orders.place":
            return make_order(chance)
        case "crash.kill":
            return Wish(command, {"how": "signal"}, {command: ["dead"]})
        case "crash.fail":
            return Wish(command, {"times": chance.randint(1, 3)})
        case _:
            return Wish(command, {"n": chance.randint(0, 999)})


def make_order(chance: random.Random) -> Wish:
    """Some are declined, some cannot be delivered, some come too late for the last lamp or the last use of a code."""
    lines = [{"sku": sku, "quantity": chance.randint(1, 3)} for sku in sorted(chance.sample(sorted(PRICES), chance.randint(1, 3)))]
    payload: dict[str, Any] = {"customer": "ada@example.com", "card_token": "tok_visa", "address": ADDRESS, "lines": lines}
    ends: dict[str, list[str]] = {}
    kind = chance.random()
    if kind < 0.06:
        payload["card_token"] = DECLINED_CARD
        ends["orders.charge"] = ["rejected"]
    elif kind < 0.08:
        payload["address"] = {**ADDRESS, "country": NOWHERE}
        ends["orders.ship"] = ["dead"]
    elif kind < 0.14:
        payload["lines"] = [{"sku": SCARCE, "quantity": 1}]
        ends["orders.place"] = ["succeeded", "rejected"]
    elif kind < 0.20:
        payload["discount_code"] = "FEW"
        ends["orders.place"] = ["succeeded", "rejected"]
    elif kind < 0.35:
        payload["discount_code"] = chance.choice(sorted(DISCOUNTS))
    return Wish("orders.place", payload, ends)


class Clients:
    def __init__(self, writer: Writer, ports: Sequence[int], keys: dict[str, str], *, seed: int, threads: int, rate: float) -> None:
        self._writer = writer
        self._ports = ports
        self._keys = keys
        self._stop = threading.Event()
        self._interval = threads / rate
        self._threads = [threading.Thread(target=self._run, args=(n, random.Random(f"{seed}-{n}")), daemon=True) for n in range(threads)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Nothing new; what was begun is asked for until there is an answer."""
        self._stop.set()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _run(self, number: int, chance: random.Random) -> None:
        caller = Caller(self._ports, chance)
        mine: list[tuple[str, str]] = []
        due, count = time.monotonic(), 0
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            tenant, wish, count = chance.choice(list(self._keys)), make_wish(chance), count + 1
            job = self._submit(caller, f"{number}-{count}", tenant, wish, chance)
            if job:
                mine.append((tenant, job))
            if mine and chance.random() < 0.4:
                tenant, job = chance.choice(mine[-200:])
                asker = chance.choice(list(self._keys)) if chance.random() < 0.05 else tenant
                self._look(caller, f"{number}-{count}", asker, job)
            due = max(due + self._interval, time.monotonic() - CATCH_UP)
        caller.close()

    def _submit(self, caller: Caller, key: str, tenant: str, wish: Wish, chance: random.Random) -> str | None:
        body: dict[str, Any] = {"command": wish.command, "payload": wish.payload, "labels": {"key": key}}
        if chance.random() < 0.05:
            body["delay"] = chance.randint(1, 3)
        patience = time.monotonic() + PATIENCE
        while True:
            self._writer.write("invoke", "submit", key=key, tenant=tenant, value={"command": wish.command, "ends": wish.ends})
            status, answer = caller.ask("POST", "/v1/jobs", self._keys[tenant], body, key)
            job = answer.get("id") if status in {200, 202} else None
            self._writer.write(judge(status, answer), "submit", key=key, tenant=tenant, job=job, value={"status": status})
            # One in fifty takes no for an answer: what was refused must then not be there.
            if job or time.monotonic() > patience or (judge(status, answer) == "fail" and chance.random() < 0.02):
                return job
            time.sleep(BREATH * chance.uniform(0.5, 1.5))

    def _look(self, caller: Caller, key: str, tenant: str, job: str) -> None:
        self._writer.write("invoke", "status", key=key, tenant=tenant, job=job)
        status, answer = caller.ask("GET", f"/v1/jobs/{job}", self._keys[tenant])
        seen = {"status": status}
        if status == 200:
            seen = {"state": answer["state"], "attempt": answer["attempt"], "key": answer["labels"]["key"]}
        kind: Type = "ok" if status == 200 else "fail" if status == 404 else "info"
        self._writer.write(kind, "status", key=key, tenant=tenant, job=job, value=seen)


def judge(status: int, answer: dict[str, Any]) -> Type:
    """What an answer means: 503 is two things, and its problem says which; a key that is still being accepted (409) may be."""
    if status in {200, 202}:
        return "ok"
    if status in {0, 409} or status == 500 or answer.get("type", "").endswith("outcome-unknown"):
        return "info"
    return "fail" if status < 500 or answer.get("type", "").endswith("unavailable") else "info"


class Caller:
    """A client's connections, one to each intake; one that did not answer is left for the other."""

    def __init__(self, ports: Sequence[int], chance: random.Random) -> None:
        self._ports = list(ports)
        self._chance = chance
        self._open: dict[int, http.client.HTTPConnection] = {}
        self._port = chance.choice(self._ports)

    def ask(self, method: str, path: str, token: str, body: Any = None, key: str | None = None) -> tuple[int, dict[str, Any]]:
        """Status and JSON; status 0 when there was no answer."""
        connection = self._open.setdefault(self._port, http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER))
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json", **({"idempotency-key": key} if key else {})}
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            content = answer.read()
            return answer.status, json.loads(content) if content else {}
        except (OSError, http.client.HTTPException, ValueError):
            connection.close()
            self._port = self._chance.choice(self._ports)
            return 0, {}

    def close(self) -> None:
        for connection in self._open.values():
            connection.close()
