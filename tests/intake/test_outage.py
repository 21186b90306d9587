"""Postgres away, frozen, or gone in the very moment of the commit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ledger.connection import Database
from tests.intake.conftest import DEADLINES, NOTE, Api, count, make_keys, running_behind
from tests.intake.proxy import Proxy

DEADLINE = 3


@pytest.fixture
def proxy(database: Database) -> Iterator[Proxy]:
    proxy = Proxy(database.url)
    yield proxy
    proxy.close()


@pytest.fixture
def far_api(database: Database, proxy: Proxy) -> Iterator[Api]:
    """An intake of the test's own, which reaches its ledger through the proxy."""
    with running_behind(proxy, DEADLINE) as running:
        running.slug, running.keys = make_keys(database)
        yield running


@pytest.mark.parametrize("key", ["k", None])
@pytest.mark.parametrize("done", [True, False], ids=["committed", "never arrived"])
def test_a_commit_of_unknown_outcome_is_repeated_until_it_is_known(
    far_api: Api, proxy: Proxy, database: Database, key: str | None, done: bool
):
    far_api.submit()
    proxy.lose(b"remember me", answer=done)

    answer = far_api.submit({"command": "tests.note", "payload": {"text": "remember me"}}, key=key)

    assert proxy.losses == 1
    assert answer.status_code == 202
    assert "idempotency-replayed" not in answer.headers
    assert answer.json() == far_api.get(f"/v1/jobs/{answer.json()['id']}").json()
    assert count(database, far_api) == 2


def test_a_set_that_is_lost_is_repeated_for_all_its_members(far_api: Api, proxy: Proxy, database: Database):
    far_api.submit()
    proxy.lose(b"number 20")

    with ThreadPoolExecutor(30) as hands:
        answers = list(hands.map(lambda n: far_api.submit({**NOTE, "labels": {"l": f"number {n}"}}, f"k{n}"), range(30)))

    assert proxy.losses == 1
    assert [answer.status_code for answer in answers] == [202] * 30
    assert count(database, far_api) == 31


@pytest.mark.parametrize("done", [True, False], ids=["committed", "never arrived"])
@pytest.mark.parametrize("query", ["", "?atomic=true"])
def test_a_set_of_a_batch_that_is_lost_is_repeated_and_is_there_once(
    far_api: Api, proxy: Proxy, database: Database, query: str, done: bool
):
    far_api.post(f"/v1/jobs/batch{query}", [NOTE])
    proxy.lose(b"number 700", answer=done)

    answer = far_api.post(f"/v1/jobs/batch{query}", [{**NOTE, "labels": {"l": f"number {n}"}} for n in range(1200)])

    assert proxy.losses == 1
    assert answer.status_code == (202 if query else 207)
    jobs = answer.json()["ids"] if query else [item["id"] for item in answer.json()["items"]]
    assert len(set(jobs)) == 1200
    assert "replayed" not in answer.text
    assert count(database, far_api) == 1201


def test_a_batch_s_commit_that_is_lost_is_repeated_and_is_there_once(far_api: Api, proxy: Proxy, database: Database):
    far_api.post("/v1/jobs/batch", [NOTE])
    proxy.lose(b"COMMIT")

    answer = far_api.post("/v1/jobs/batch", [{**NOTE, "unique": {"key": f"{n}", "on_conflict": "reject"}} for n in range(50)])

    assert proxy.losses == 1
    assert {item["status"] for item in answer.json()["items"]} == {202}
    assert "replayed" not in answer.text
    assert count(database, far_api) == 51


def test_a_ledger_that_goes_in_the_middle_of_a_batch_leaves_what_was_kept_and_says_so(far_api: Api, proxy: Proxy, database: Database):
    items = [{**NOTE, "labels": {"l": f"number {n}"}} for n in range(1200)]
    far_api.post("/v1/jobs/batch", [NOTE])
    proxy.lose(b"number 700", then_refuse=True)

    broken = far_api.post("/v1/jobs/batch", items, headers={"idempotency-key": "b"})
    proxy.let_through()
    whole = far_api.post("/v1/jobs/batch", items, headers={"idempotency-key": "b"})

    assert (broken.status_code, len(broken.json()["items"])) == (207, 500)
    assert broken.json()["problem"]["type"] == "/problems/outcome-unknown"
    assert [item["status"] for item in whole.json()["items"]] == [202] * 1200
    assert [item["id"] for item in whole.json()["items"]][:500] == [item["id"] for item in broken.json()["items"]]
    assert count(database, far_api) == 1201


def test_what_stays_unknown_until_the_deadline_says_so_and_a_repeat_finds_it(far_api: Api, proxy: Proxy, database: Database):
    far_api.submit()
    proxy.lose(b"remember me", then_refuse=True)
    body = {"command": "tests.note", "payload": {"text": "remember me"}}

    unknown = far_api.submit(body, key="k")
    proxy.let_through()
    repeat = far_api.submit(body, key="k")

    assert (unknown.status_code, unknown.json()["type"]) == (503, "/problems/outcome-unknown")
    assert unknown.headers["retry-after"] == "2"
    assert (repeat.status_code, repeat.headers.get("idempotency-replayed")) == (202, "true")
    assert count(database, far_api) == 2


def test_a_ledger_that_is_down_is_a_503_within_the_deadline_and_nothing_was_accepted(far_api: Api, proxy: Proxy, database: Database):
    job_id = far_api.accepted()
    proxy.refuse()

    started = time.monotonic()
    submitted = far_api.submit(key="k")
    read = far_api.get(f"/v1/jobs/{job_id}")
    cancelled = far_api.post(f"/v1/jobs/{job_id}/cancel")
    took = time.monotonic() - started
    proxy.let_through()

    for answer in (submitted, read, cancelled):
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/unavailable")
        assert answer.headers["retry-after"] == "2"
    assert took < 3 * (DEADLINE + 1)
    assert far_api.submit(key="k").status_code == 202
    assert count(database, far_api) == 2


def test_a_short_outage_is_ridden_out(far_api: Api, proxy: Proxy):
    far_api.submit()
    proxy.refuse()

    with ThreadPoolExecutor(1) as hands:
        waiting = hands.submit(far_api.submit)
        with pytest.raises(TimeoutError):
            waiting.result(0.5)
        proxy.let_through()

        assert waiting.result(5).status_code == 202


def test_connections_that_were_lost_while_idle_cost_no_request(far_api: Api, proxy: Proxy):
    job_id = far_api.accepted()
    with ThreadPoolExecutor(8) as hands:
        list(hands.map(lambda _: far_api.get(f"/v1/jobs/{job_id}"), range(16)))
    proxy.cut()

    answers = [far_api.get(f"/v1/jobs/{job_id}") for _ in range(6)]

    assert {answer.status_code for answer in answers} == {200}
    assert far_api.submit().status_code == 202


def test_a_frozen_ledger_is_a_503_within_the_deadlines(far_api: Api, proxy: Proxy):
    job_id = far_api.accepted()
    proxy.freeze(b"remember me")

    started = time.monotonic()
    submitted = far_api.submit({"command": "tests.note", "payload": {"text": "remember me"}})
    submitting_took = time.monotonic() - started
    read = far_api.get(f"/v1/jobs/{job_id}")
    took = time.monotonic() - started

    assert (submitted.status_code, submitted.json()["type"]) == (503, "/problems/outcome-unknown")
    assert (read.status_code, read.json()["type"]) == (503, "/problems/unavailable")
    assert submitting_took < DEADLINE + 2
    assert took < DEADLINE + DEADLINES.call + DEADLINES.connect + 5


def test_an_intake_whose_ledger_is_down_lives_and_is_not_ready(far_api: Api, proxy: Proxy):
    ready = far_api.call("GET", "/readyz", None)
    proxy.refuse()

    alive, unready = far_api.call("GET", "/livez", None), far_api.call("GET", "/readyz", None)

    assert (ready.status_code, alive.status_code, unready.status_code) == (200, 200, 503)
    assert unready.json()["dependencies"]["database"]["ok"] is False


def test_a_broker_that_is_away_leaves_the_intake_ready(api: Api):
    answer = api.call("GET", "/readyz", None)

    assert answer.status_code == 200
    assert answer.json()["dependencies"]["broker"] == {"ok": False, "needed": False, "detail": "RabbitMQ is away"}
    assert api.submit().status_code == 202
