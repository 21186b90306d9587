"""Trying again: with the same key, when the intake said, and not beyond the deadline; then the last answer is raised."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from ledger.connection import Database
from producers.client import ProblemError, UnreachableError, operations
from producers.client.operations import Answer, Ask, Pause
from producers.client.operations import call as asking
from tests.client.conftest import Call
from tests.intake.conftest import Api, Worker, count, eventually, running_behind
from tests.intake.proxy import Proxy
from tests.intake.test_limits import limited


@pytest.fixture
def ledger(database: Database) -> Iterator[Proxy]:
    """In front of the database of `far`."""
    proxy = Proxy(database.url)
    yield proxy
    proxy.close()


@pytest.fixture
def far(api: Api, ledger: Proxy) -> Iterator[Api]:
    """An intake that gives up after a second where its ledger is away."""
    with running_behind(ledger, 1) as running:
        running.keys, running.slug = api.keys, api.slug
        yield running


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


def notes(number: int) -> list[dict[str, Any]]:
    return [{"command": "tests.note", "payload": {"text": str(n)}} for n in range(number)]


def texts(api: Api, ids: Sequence[str | None]) -> list[str]:
    return [job["payload"]["text"] for job in api.get("/v1/jobs?limit=500&ids=" + ",".join(filter(None, ids)), "seeing").json()["items"]]


@pytest.mark.parametrize("limits", [{"submissions": {"rate": 200, "burst": 20}}, {"each_key": {"rate": 200, "burst": 20}}])
def test_many_get_through_a_burst_that_is_smaller_than_a_set_of_them(call: Call, api: Api, database: Database, limits: dict[str, Any]):
    limited(api, limits, database)

    batch = call("submit_many", notes(700), deadline=5)

    assert ([item["status"] for item in batch.items], count(database, api)) == ([202] * 700, 700)
    assert texts(api, batch.ids[300:700]) == [str(n) for n in range(300, 700)]


def test_many_get_through_as_jobs_of_a_tenant_with_few_open_ones_end(call: Call, api: Api, database: Database, worker: Worker):
    limited(api, {"open_jobs": 20}, database)
    end = threading.Thread(target=lambda: [worker.complete(worker.begin(job), "null") for job in first_jobs(api, 15)])
    end.start()

    batch = call("submit_many", notes(30))
    end.join()

    assert ([item["status"] for item in batch.items], count(database, api)) == ([202] * 30, 30)


def first_jobs(api: Api, number: int) -> list[str]:
    shown: list[str] = []

    def look() -> bool:
        shown[:] = [job["id"] for job in api.get("/v1/jobs").json()["items"]]
        return len(shown) >= number

    eventually(look)
    return shown[-number:]


def test_what_is_raised_in_the_middle_of_many_holds_what_was_answered_and_the_rest(call: Call, api: Api, database: Database):
    limited(api, {"submissions": {"rate": 0.1, "burst": 5}}, database)

    with pytest.raises(ProblemError, match="429 rate-limited") as caught:
        call("submit_many", notes(12), deadline=5)
    limited(api, {}, database)
    then = call("submit_many", caught.value.rest)

    ids = [*caught.value.batch.ids, *then.ids]
    assert (len(caught.value.batch.items), len(caught.value.rest)) == (5, 7)
    assert (texts(api, ids), count(database, api)) == ([str(n) for n in range(12)], 12)


def test_many_of_unknown_outcome_are_submitted_again_from_what_was_raised_and_none_is_doubled(call: Call, api: Api, database: Database):
    proxy = Proxy(api.url)
    proxy.lose(b"POST /v1/jobs/batch ", then_refuse=True)

    with pytest.raises(UnreachableError) as caught:
        call("submit_many", notes(20), url=proxy.url, deadline=1)
    proxy.close()
    there = count(database, api)
    batch = call("submit_many", caught.value.rest)

    assert (there, count(database, api)) == (20, 20)
    assert [item.get("replayed") for item in batch.items] == [True] * 20


def test_large_submissions_go_in_requests_that_are_not_too_large(call: Call, api: Api, database: Database, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(operations, "BATCH_BYTES", 2000)

    batch = call("submit_many", notes(50))

    assert 3 <= count(database, api, "batches") < 25
    assert (texts(api, batch.ids), count(database, api)) == ([str(n) for n in range(50)], 50)


@pytest.mark.parametrize("told, least", [("7", 7.0), ("45", 45.0), ("²", 0.0), ("Fri, 27 Nov 2026 12:00:00 GMT", 0.0), ("-1", 0.0)])
def test_a_told_time_is_waited_for_and_another_is_as_if_none_were_told(told: str, least: float):
    steps = asking(Ask("GET", "/v1/jobs"), 60)
    next(steps)

    pause = steps.send(Answer(503, {"retry-after": told}, b""))

    assert isinstance(pause, Pause)
    assert least <= pause.seconds <= least + 0.1
