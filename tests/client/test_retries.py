"""Trying again: with the same key, when the intake said, and not beyond the deadline; then the last answer is raised."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from ledger.connection import Database
from ledger.roles import Role
from producers.client import ProblemError, UnreachableError
from producers.client.operations import Answer, Ask, Pause
from producers.client.operations import call as asking
from tests.client.conftest import Call
from tests.intake.conftest import DEADLINES, Api, count, running_intake
from tests.intake.proxy import Proxy
from tests.intake.test_limits import limited


@pytest.fixture
def ledger(database: Database) -> Iterator[Proxy]:
    """In front of the database of `far`."""
    proxy = Proxy(database.url)
    yield proxy
    proxy.close()


@pytest.fixture
def far(database: Database, api: Api, ledger: Proxy) -> Iterator[Api]:
    """An intake that gives up after a second where its ledger is away."""
    own = Database(ledger.url, Role.INTAKE, size=4, deadlines=DEADLINES)
    with running_intake(own, request_deadline=1) as running:
        far = Api(running.url, api.keys, api.slug, running.server)
        yield far
        far.client.close()
        ledger.let_through()
    own.close()


def test_what_a_rate_refuses_is_tried_again_when_the_intake_said_and_with_its_key(call: Call, api: Api, database: Database):
    limited(api, {"submissions": {"rate": 0.5, "burst": 1}}, database)
    api.accepted()
    began = time.monotonic()

    job = call("submit", "tests.note", {"text": "hello"}, idempotency_key="a key")
    took = time.monotonic() - began
    limited(api, {}, database)

    assert 1 <= took < 6
    assert api.submit({"command": "tests.note", "payload": {"text": "hello"}}, "a key").json()["id"] == job["id"]
    assert count(database, api) == 2


def test_what_a_rate_refuses_beyond_the_deadline_is_raised_at_once_and_says_when_to_come_back(call: Call, api: Api, database: Database):
    limited(api, {"submissions": {"rate": 0.01, "burst": 1}}, database)
    api.accepted()
    began = time.monotonic()

    with pytest.raises(ProblemError, match="429 rate-limited") as caught:
        call("submit", "tests.note", {"text": "hello"}, deadline=60)

    assert time.monotonic() - began < 5
    assert caught.value.retry_after is not None
    assert 90 < caught.value.retry_after <= 100
    assert count(database, api) == 1


def test_a_submission_of_unknown_outcome_is_repeated_with_its_key_until_it_is_known(
    call: Call, api: Api, far: Api, ledger: Proxy, database: Database
):
    """The ledger has it and its answer is lost; the intake says 503 until the ledger is back."""
    far.accepted()
    ledger.lose(b"remember me", then_refuse=True)
    back = threading.Timer(3, ledger.let_through)
    back.start()

    job = call("submit", "tests.note", {"text": "remember me"}, url=far.url)
    back.join()

    assert ledger.losses == 1
    assert count(database, api) == 2
    assert api.get(f"/v1/jobs/{job['id']}").status_code == 200


def test_an_intake_without_its_ledger_is_asked_until_the_deadline(call: Call, api: Api, far: Api, ledger: Proxy, database: Database):
    far.accepted()
    ledger.refuse()
    began = time.monotonic()

    with pytest.raises(ProblemError, match="503 unavailable") as caught:
        call("submit", "tests.note", {"text": "hello"}, url=far.url, deadline=5)

    assert 2 <= time.monotonic() - began < 8
    assert caught.value.retry_after == 2
    assert count(database, api) == 1


def test_a_cut_network_is_tried_until_it_is_back_and_no_longer_than_the_deadline(call: Call, api: Api, database: Database):
    proxy = Proxy(api.url)
    proxy.lose(b"POST /v1/jobs ", then_refuse=True)  # accepted, and then nobody is there
    back = threading.Timer(1, proxy.let_through)
    back.start()

    call("submit", "tests.note", {"text": "hello"}, url=proxy.url)
    back.join()
    proxy.refuse()
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="POST /v1/jobs"):
        call("submit", "tests.note", {"text": "hello"}, url=proxy.url, deadline=1)
    proxy.close()

    assert time.monotonic() - began < 3
    assert (proxy.losses, count(database, api)) == (1, 1)


def test_what_may_have_been_done_and_has_no_key_is_not_repeated(call: Call, api: Api):
    proxy = Proxy(api.url)
    job_id = api.accepted()
    proxy.lose(b"/cancel ")

    with pytest.raises(UnreachableError, match="/cancel"):
        call("cancel", job_id, url=proxy.url)
    proxy.close()

    assert api.get(f"/v1/jobs/{job_id}").json()["state"] == "cancelled"


@pytest.mark.parametrize("told, least", [("7", 7.0), ("45", 45.0), ("²", 0.0), ("Fri, 27 Nov 2026 12:00:00 GMT", 0.0), ("-1", 0.0)])
def test_a_told_time_is_waited_for_and_another_is_as_if_none_were_told(told: str, least: float):
    steps = asking(Ask("GET", "/v1/jobs"), 60)
    next(steps)

    pause = steps.send(Answer(503, {"retry-after": told}, b""))

    assert isinstance(pause, Pause)
    assert least <= pause.seconds <= least + 0.1
