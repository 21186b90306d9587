"""Two tenants side by side: no byte that one of them wrote is in anything that the other, or the public, gets to see.

A seeded random walk over all that the document offers. Every string that tenant A writes is a canary of 128 random bits; B asks for everything,
with A's ids too. What is searched: status line, headers, bodies, streams, metrics, pages, problem documents, and the intake's log.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import threading
from collections.abc import Iterator

import httpx2
import orjson
import pytest
import structlog

from ledger.connection import Database
from tests.intake.conftest import Api, Worker
from tests.intake.test_document import operations
from tests.intake.test_matrix import Things, body_for, takes_tenant, untried

STEPS = 150


class Walk:
    def __init__(self, api: Api, worker: Worker, database: Database, seed: int) -> None:
        self.api, self.worker, self.database, self.chance = api, worker, database, random.Random(seed)
        self.canaries: list[str] = []
        self.ids: list[str] = []
        self.prefixes: list[str] = []
        #: Where each byte came from that B, or anybody, got to see.
        self.seen: list[tuple[str, bytes]] = []
        self.things = Things(api, worker, database)

    def canary(self) -> str:
        self.canaries.append(secrets.token_hex(16))
        return self.canaries[-1]

    def write(self) -> None:
        """Tenant A does something, with a canary wherever it may say anything."""
        job_id = self.submit()
        match self.chance.randrange(5):
            case 0:
                lease = self.worker.begin(job_id)
                self.worker.complete(lease, orjson.dumps({"length": 1, "note": self.canary()}).decode())
            case 1 | 2:
                error = {"code": self.canary(), "type": self.canary(), "message": self.canary(), "traceback": self.canary()}
                self.worker.bury(self.worker.begin(job_id), error=orjson.dumps(error).decode())
                if self.chance.random() < 0.5:
                    wish = {"reason": self.canary(), "payload": {"text": self.canary()}}
                    assert self.api.post(f"/v1/dead-letters/{job_id}/replay", wish, "admin").status_code == 202
            case 3:
                self.api.post(f"/v1/jobs/{job_id}/cancel", role="admin")
            case _:
                made = self.api.post("/v1/keys", {"role": "viewer", "name": self.canary()}, "admin").json()
                self.canaries.append(made["key"])
                self.prefixes.append(made["prefix"])

    def submit(self) -> str:
        key = self.canary()
        body = {
            "command": "tests.note",
            "payload": {"text": self.canary(), "more": {self.canary(): [self.canary()]}},
            "labels": {self.canary(): self.canary(), "shared": self.canary()},
            "unique": {"key": self.canary()},
        }
        answers = [self.api.submit(body, key=key, role="admin") for _ in range(self.chance.choice([1, 1, 2]))]
        assert {answer.status_code for answer in answers} == {202}, answers[-1].text
        self.ids.append(answers[0].json()["id"])
        return self.ids[-1]

    def look(self) -> None:
        """Tenant B, or a platform key that means B, asks for something: its own, or what it knows to be A's."""
        method, template, operation = self.chance.choice(
            [each for each in operations(self.api.document) if not is_stream(each[1]) and not untried(each[1])]
        )
        role, query = self.chance.choice([("foreign", ""), ("platform", f"?tenant=other-{self.api.slug}")])
        if "{" not in template or self.chance.random() < 0.3:
            path = self.things.path(template, "foreign")
        else:
            path = template.replace("{job_id}", self.chance.choice(self.ids)).replace("{name}", "tests.note").replace("{kind}", "gone")
            path = path.replace("{prefix}", self.chance.choice(self.prefixes or ["aaaaaaaa"]))
            path = self.things.path(path, "foreign")
        if not any(parameter["name"] == "tenant" for parameter in operation.get("parameters", ())):
            query = ""
        if operation["operationId"] == "list_jobs" and self.chance.random() < 0.5:
            query += ("&" if query else "?") + self.chance.choice([f"ids={','.join(self.ids[-20:])}", "label.shared=x", "state=dead"])
        body = body_for(operation)
        answer = self.api.call(method.upper(), path + query, role, **({"json": body} if body is not None else {}))
        self.note(f"{method} {path}{query} as {role}", answer)

    def note(self, where: str, answer: httpx2.Response) -> None:
        head = b"".join(name + b": " + value + b"\n" for name, value in answer.headers.raw)
        self.seen.append((where, head + answer.content))

    def leaks(self) -> list[str]:
        """A's ids are canaries too, where B did not give them away itself by asking for them."""
        return [
            f"{where}: {each}"
            for where, text in self.seen
            for each in self.canaries + (self.ids if where.startswith("stream") else [])
            if each.encode() in text
        ]


def is_stream(path: str) -> bool:
    return path.endswith("/events")


@contextlib.contextmanager
def listening(walk: Walk, path: str, role: str, seen: list[tuple[str, bytes]]) -> Iterator[None]:
    """Keep what this role's stream says meanwhile."""
    opened, leave = threading.Event(), threading.Event()

    def listen() -> None:
        # A read that times out looks whether to leave; what was sent meanwhile comes with the next.
        with httpx2.Client(base_url=walk.api.url, timeout=httpx2.Timeout(20)) as client:
            headers = {"authorization": f"Bearer {walk.api.keys[role]}"}
            with client.stream("GET", path, headers=headers) as answer:
                assert answer.status_code == 200
                opened.set()
                for chunk in answer.iter_raw():
                    seen.append((f"stream {path}", chunk))
                    if leave.is_set():
                        return

    thread = threading.Thread(target=listen)
    thread.start()
    assert opened.wait(10)
    try:
        yield
    finally:
        leave.set()
        walk.api.accepted(role=role)  # an event of its own, so that the stream speaks once more
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.parametrize("seed", [1, 2])
def test_no_byte_of_one_tenant_is_in_anything_that_another_sees(
    api: Api, worker: Worker, database: Database, seed: int, caplog: pytest.LogCaptureFixture
):
    walk = walked(api, worker, database, seed, caplog)

    assert len(walk.canaries) > STEPS
    assert len({where for where, _ in walk.seen}) > 30
    assert any(where.startswith("stream") and b"accepted" in text for where, text in walk.seen)
    assert walk.leaks() == []
    # The search finds what is there: A's own list is full of them.
    walk.note("as A itself", api.get("/v1/jobs?limit=500", "admin"))
    assert walk.leaks() != []


def walked(api: Api, worker: Worker, database: Database, seed: int, caplog: pytest.LogCaptureFixture) -> Walk:
    """All that B, and everybody, sees of a walk."""
    walk = Walk(api, worker, database, seed)
    api.accepted(role="foreign")
    own: list[tuple[str, bytes]] = []
    with (
        structlog.testing.capture_logs() as logged,
        listening(walk, "/v1/events", "admin", own),  # so that the intake reads A's events, too
        listening(walk, "/v1/events", "foreign", walk.seen),
    ):
        for _ in range(STEPS):
            if not walk.ids or walk.chance.random() < 0.35:
                walk.write()
            else:
                walk.look()
        for method, template, operation in operations(api.document):
            if "{" not in template and method == "get" and not template.startswith("/v1/"):
                walk.note(f"{operation['operationId']}, by nobody", api.call("GET", template, None))
        for path in ("/openapi.json", "/docs", "/problems/invalid"):
            walk.note(path, api.client.get(path))
    assert any(walk.ids[0].encode() in chunk for _, chunk in own)
    walk.seen.append(("the log", repr(logged).encode() + caplog.text.encode()))
    return walk


def test_names_that_two_tenants_share_do_not_meet(api: Api):
    """Idempotency keys, unique keys, labels: each is its tenant's own, so that none of them tells what another tenant has."""
    name = secrets.token_hex(16)
    body = {"command": "tests.note", "payload": {"text": "x"}, "unique": {"key": name, "on_conflict": "reject"}, "labels": {name: name}}

    mine, theirs = api.submit(body, key=name, role="admin"), api.submit(body, key=name, role="foreign")
    other = api.submit({**body, "priority": 1}, key=f"{name}-2", role="foreign")

    assert (mine.status_code, theirs.status_code, other.status_code) == (202, 202, 409)
    assert "idempotency-replayed" not in theirs.headers
    assert mine.json()["id"] not in other.text
    assert [job["id"] for job in api.get(f"/v1/jobs?label.{name}={name}", "foreign").json()["items"]] == [theirs.json()["id"]]
    assert [job["id"] for job in api.get(f"/v1/jobs?label.{name}={name}", "admin").json()["items"]] == [mine.json()["id"]]


def test_payloads_results_and_tracebacks_are_not_in_what_a_key_without_them_sees(api: Api, worker: Worker, database: Database):
    secret = [secrets.token_hex(16) for _ in range(4)]
    done = api.accepted({"command": "tests.note", "payload": {"text": secret[0], "more": {secret[1]: 1}}}, "admin")
    worker.complete(worker.begin(done), orjson.dumps({"length": secret[2]}).decode())
    dead = api.accepted({"command": "tests.note", "payload": {"text": secret[0]}}, "admin")
    error = {"code": "broken", "type": "ValueError", "message": "it broke", "traceback": secret[3]}
    worker.bury(worker.begin(dead), error=orjson.dumps(error).decode())

    assert shown_of(api, worker, database, [done, dead], secret, "viewer") == []
    # Whoever may see them does, and the search finds it.
    assert shown_of(api, worker, database, [done, dead], secret, "seeing") != []
    assert all(each in api.get(f"/v1/jobs/{done}", "seeing").text for each in secret[:3])


def test_what_a_schema_marks_secret_is_in_nothing_that_anybody_sees(api: Api, worker: Worker, database: Database):
    """Not even for a key with payloads, and not when a dead letter was edited."""
    secret = [secrets.token_hex(16) for _ in range(2)]
    wish, edited = ({"command": "tests.pay", "payload": {"lines": [], "token": f"tok_{each}"}} for each in secret)
    dead, replayed = api.accepted(wish, "admin"), api.accepted(wish, "admin")
    for job_id in (dead, replayed):
        worker.kill(job_id)
    again = {"reason": "another card", "payload": edited["payload"]}
    assert api.post(f"/v1/dead-letters/{replayed}/replay", again, "admin").status_code == 202

    for role in ("seeing", "platform"):
        assert shown_of(api, worker, database, [dead, replayed], secret, role) == []


def shown_of(api: Api, worker: Worker, database: Database, jobs: list[str], secret: list[str], role: str) -> list[str]:
    """Where the answers to this role, of all that can be read, hold one of these."""
    things = Things(api, worker, database)
    query = f"?tenant={api.slug}" if role == "platform" else ""
    asked = [
        (template, job_id, things.path(template.replace("{job_id}", job_id), "admin") + (query if takes_tenant(operation) else ""))
        for method, template, operation in operations(api.document)
        if method == "get" and template.startswith("/v1/") and not is_stream(template) and not untried(template)
        for job_id in jobs
    ]
    assert len(asked) > 10
    return [
        f"{template} of {job_id}" for template, job_id, path in asked if any(each in api.call("GET", path, role).text for each in secret)
    ]
