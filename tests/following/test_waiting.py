"""Answers that wait for a job: woken by hints, correct without them, held for no longer than was asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import httpx2
import psycopg
import pytest
import sqlalchemy

import producers
from console.servers.find import redis_server as find_redis
from console.servers.postgres import PostgresServer
from ledger.connection import sqlalchemy_url
from ledger.jobs import Unique
from ledger.migrate import migrate
from producers import hints
from producers.intake.views import JobView
from tests.following.conftest import NEVER, Place, open_place
from tests.intake.commands import HANDLERS, Note
from tests.intake.conftest import NOTE, eventually, make_keys
from tests.intake.test_reading import add_child
from tests.servers import fresh_database


def wait(seconds: int, tag: str | None = None) -> dict[str, str]:
    return {"prefer": f"wait={seconds}", **({"if-none-match": tag} if tag else {})}


def test_a_request_that_waits_is_answered_when_the_job_ends(place: Place):
    job_id = place.api.accepted()
    waiting = place.later("GET", f"/v1/jobs/{job_id}", headers=wait(50))

    lease = place.work.begin(job_id)
    place.work.complete(lease)

    answer = waiting.result(10)
    assert (answer.status_code, answer.json()["state"]) == (200, "succeeded")
    assert answer.headers["preference-applied"] == "wait=50"
    assert "prefer" in answer.headers["vary"]
    assert JobView.model_validate(answer.json())


def test_with_a_tag_it_is_answered_by_each_change_of_state_or_progress(place: Place):
    path = f"/v1/jobs/{place.api.accepted()}"
    tag = place.api.get(path).headers["etag"]

    waiting = place.later("GET", path, headers=wait(50, tag))
    lease = place.work.begin(path.rpartition("/")[2])
    begun = waiting.result(10)
    waiting = place.later("GET", path, headers=wait(50, begun.headers["etag"]))
    place.work.progress(lease, 4)
    moved = waiting.result(10)
    waiting = place.later("GET", path, headers=wait(50, moved.headers["etag"]))
    assert place.api.post(f"{path}/cancel").status_code == 202
    asked = waiting.result(10)

    assert [answer.status_code for answer in (begun, moved, asked)] == [200, 200, 200]
    assert (begun.json()["state"], begun.json()["progress"]) == ("running", None)
    assert moved.json()["progress"] == {"done": 4, "total": 9, "message": ""}
    assert asked.json()["cancel_requested_at"] is not None


def unique_note(on_conflict: str = "replace") -> dict[str, Any]:
    return {**NOTE, "unique": {"key": "cart-17", "on_conflict": on_conflict}}


def alone(place: Place) -> None:
    assert place.api.submit(unique_note()).status_code == 202


def in_a_batch(place: Place) -> None:
    assert place.api.post("/v1/jobs/batch", [NOTE, unique_note(), NOTE]).status_code == 207


def in_an_atomic_batch(place: Place) -> None:
    assert place.api.post("/v1/jobs/batch?atomic=true", [NOTE, unique_note(), NOTE]).status_code == 202


def in_a_transaction(place: Place) -> None:
    with psycopg.connect(place.database.url) as caller:
        replace_in(caller, place)
        caller.commit()
        producers.wake(caller)


def in_sqlalchemys(place: Place) -> None:
    engine = sqlalchemy.create_engine(sqlalchemy_url(place.database.url))
    with engine.connect() as caller:
        replace_in(caller, place)
        caller.commit()
        producers.wake(caller)
    engine.dispose()


def replace_in(caller: Any, place: Place) -> None:
    unique = Unique("cart-17", on_conflict="replace")
    producers.submit(caller, Note(text="hello"), tenant=place.api.slug, unique=unique, handlers=HANDLERS)


@pytest.mark.parametrize("submit", [alone, in_a_batch, in_an_atomic_batch, in_a_transaction, in_sqlalchemys])
def test_a_request_that_waits_for_a_job_is_answered_when_another_takes_its_place(
    place: Place, submit: Callable[[Place], None], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HAULIER_REDIS_URL", place.redis.url)
    hints._bus.cache_clear()
    job_id = place.api.accepted(unique_note())
    waiting = [place.later("GET", f"/v1/jobs/{job_id}{query}", headers=wait(50)) for query in ("", "?until=family")]

    submit(place)

    answers = [each.result(10) for each in waiting]
    assert [(answer.status_code, answer.json()["state"], answer.json()["reason"]) for answer in answers] == [
        (200, "cancelled", "replaced")
    ] * 2
    hints._bus.cache_clear()


def test_a_tag_that_is_outdated_is_answered_at_once_and_so_is_a_job_that_has_ended(place: Place):
    job_id = place.api.accepted()
    path = f"/v1/jobs/{job_id}"
    old = place.api.get(path).headers["etag"]
    lease = place.work.begin(job_id)

    outdated = place.api.get(path, headers=wait(50, old))
    place.work.complete(lease)
    ended = place.api.get(path, headers=wait(50))
    known = place.api.get(path, headers=wait(50, ended.headers["etag"]))

    assert (outdated.status_code, outdated.json()["state"]) == (200, "running")
    assert (ended.status_code, ended.json()["state"]) == (200, "succeeded")
    assert (known.status_code, known.headers["etag"]) == (304, ended.headers["etag"])


def test_when_the_time_is_up_it_is_a_304_or_the_job_as_it_stands(place: Place):
    path = f"/v1/jobs/{place.api.accepted()}"
    tag = place.api.get(path).headers["etag"]

    same = place.api.get(path, headers=wait(1, tag))
    stands = place.api.get(path, headers=wait(1))

    assert (same.status_code, same.headers["etag"], same.headers["preference-applied"]) == (304, tag, "wait=1")
    assert (stands.status_code, stands.json()["state"]) == (200, "queued")
    assert place.held() == 0


def test_the_family_is_waited_for_until_all_of_it_has_ended(place: Place):
    parent = place.api.accepted()
    place.work.complete(place.work.begin(parent))
    child = str(add_child(place.database, parent))
    path = f"/v1/jobs/{parent}"

    of_the_job = place.api.get(path, headers=wait(50))
    waiting = place.later("GET", f"{path}?until=family", headers=wait(50))
    with_tag = place.later("GET", f"{path}?until=family", headers=wait(50, of_the_job.headers["etag"]))
    lease = place.work.begin(child)
    place.work.progress(lease, 1)
    eventually(lambda: place.api.get(path).json()["family"]["counts"] == {"succeeded": 1, "running": 1})
    assert not waiting.done()
    assert not with_tag.done()  # the family's numbers are no change of the job
    place.work.complete(lease)

    assert of_the_job.json()["family"]["state"] == "active"
    for answer in (waiting.result(10), with_tag.result(10)):
        assert (answer.status_code, answer.json()["family"]) == (200, {"state": "succeeded", "counts": {"succeeded": 2}})


def test_a_submission_may_wait_for_its_end(place: Place):
    key = "wait-for-it"
    held = place.later("POST", "/v1/jobs", json=NOTE, headers={"idempotency-key": key, **wait(50)})
    job_id = place.api.get("/v1/jobs").json()["items"][0]["id"]
    again = place.later("POST", "/v1/jobs", json=NOTE, headers={"idempotency-key": key, **wait(50)})
    place.work.complete(place.work.begin(job_id))

    first, second = held.result(10), again.result(10)
    late = place.api.post("/v1/jobs", NOTE, headers=wait(1))
    at_once = place.api.post("/v1/jobs", NOTE, headers={"prefer": "respond-async"})

    for answer in (first, second):
        assert (answer.status_code, answer.json()["id"], answer.json()["state"]) == (200, job_id, "succeeded")
        assert answer.headers["location"] == f"/v1/jobs/{job_id}"
        assert answer.headers["preference-applied"] == "wait=50"
    assert ("idempotency-replayed" in first.headers, second.headers["idempotency-replayed"]) == (False, "true")
    assert (late.status_code, late.json()["state"], late.headers["preference-applied"]) == (202, "queued", "wait=1")
    assert (at_once.status_code, at_once.headers["preference-applied"], at_once.headers["vary"]) == (202, "respond-async", "prefer")


@pytest.mark.parametrize(
    ("given", "status", "applied"),
    [
        ("wait=0", 304, "wait=0"), ('wait="0"', 304, "wait=0"), ("handling=lenient, WAIT = 0", 304, "wait=0"),
        ('x="a, wait=50", wait=0; y=z', 304, "wait=0"), ("wait=0, wait=50", 304, "wait=0"), ("handling=strict", 304, None),
        ("wait", 400, None), ("wait=", 400, None), ("wait=-1", 400, None), ("wait=1.5", 400, None), ("wait=soon", 400, None),
        ("wait=99999999999999999999", 400, None),
    ],
)  # fmt: skip
def test_a_preference_is_read_as_the_standard_says(place: Place, given: str, status: int, applied: str | None):
    path = f"/v1/jobs/{place.api.accepted()}"
    tag = place.api.get(path).headers["etag"]

    answer = place.api.get(path, headers={"prefer": given, "if-none-match": tag})
    submitted = place.api.post("/v1/jobs", NOTE, headers={"prefer": given})

    assert (answer.status_code, answer.headers.get("preference-applied")) == (status, applied)
    assert submitted.status_code == (400 if status == 400 else 202)


def test_longer_than_a_minute_is_cut_to_that(place: Place):
    path = f"/v1/jobs/{place.api.accepted()}"

    assert place.api.get(path, headers={**wait(3600, '"other"')}).headers["preference-applied"] == "wait=60"


def test_who_may_not_see_the_job_does_not_wait_for_it(place: Place):
    path = f"/v1/jobs/{place.api.accepted()}"

    assert place.api.get(path, "foreign", headers=wait(50)).status_code == 404
    assert place.held() == 0


def test_a_key_that_is_revoked_meanwhile_gets_no_answer(place: Place):
    job_id = place.api.accepted()
    waiting = place.later("GET", f"/v1/jobs/{job_id}", headers=wait(5))
    with place.database.plumbing() as tx:
        tx.execute("update haulier.api_keys set revoked_at = now() where prefix = %s", (place.api.keys["submitter"].split("_")[1],))

    answer = waiting.result(20)

    assert (answer.status_code, answer.json()["type"]) == (401, "/problems/unauthenticated")


def test_who_has_gone_is_waited_for_no_longer(place: Place):
    path = f"/v1/jobs/{place.api.accepted()}"
    headers = {"authorization": f"Bearer {place.api.keys['viewer']}", **wait(50)}

    with httpx2.Client(base_url=place.api.url, timeout=httpx2.Timeout(5, read=0.5)) as client, pytest.raises(httpx2.ReadTimeout):
        client.get(path, headers=headers)

    eventually(lambda: place.held() == 0)


def test_hundreds_wait_on_one_intake_without_a_thread_or_a_query_for_each(place: Place):
    jobs = [place.api.accepted() for _ in range(60)]
    threads = threading.active_count()
    before = place.number("haulier_requests_waiting")
    answers: list[httpx2.Response] = []
    headers = {"authorization": f"Bearer {place.api.keys['viewer']}", **wait(50)}

    async def ask(client: httpx2.AsyncClient, job_id: str) -> None:
        answers.append(await client.get(f"/v1/jobs/{job_id}", headers=headers))

    async def ask_all() -> None:
        limits = httpx2.Limits(max_connections=400)
        async with httpx2.AsyncClient(base_url=place.api.url, timeout=60, limits=limits) as client, asyncio.TaskGroup() as group:
            for job_id in jobs * 5:
                group.create_task(ask(client, job_id))

    asking = place.hands.submit(asyncio.run, ask_all())
    eventually(lambda: place.number("haulier_requests_waiting") == before + 300)
    eventually(lambda: place.held() == 300)
    grown = threading.active_count() - threads
    rounds = place.rounds()
    for job_id in jobs:
        place.work.complete(place.work.begin(job_id))
    asking.result(30)

    assert [(answer.status_code, answer.json()["state"]) for answer in answers] == [(200, "succeeded")] * 300
    assert grown <= 40  # the client's own, and the pool of the event loop, which has its most
    assert place.rounds() - rounds <= 2 * len(jobs)  # one for a hint at the most, and none for a waiter


def test_too_many_of_one_tenant_are_refused_and_a_submission_is_accepted_all_the_same(postgres_server: PostgresServer):
    with fresh_database(postgres_server, "template0") as url, find_redis() as redis:
        migrate(url)
        with open_place(url, redis, most_waiting_of_a_tenant=1, most_waiting=2) as place:
            place.api.slug, place.api.keys = make_keys(place.database)
            job_id = place.api.accepted()
            first = place.later("GET", f"/v1/jobs/{job_id}", headers=wait(20))

            refused = place.api.get(f"/v1/jobs/{job_id}", headers=wait(20))
            accepted = place.api.post("/v1/jobs", NOTE, headers=wait(20))
            second = place.later("GET", f"/v1/jobs/{job_id}?tenant=*", role="platform", headers=wait(20))
            full = place.api.get(f"/v1/jobs/{job_id}", headers=wait(20))
            place.work.complete(place.work.begin(job_id))

            assert (refused.status_code, refused.json()["type"]) == (429, "/problems/too-many-waiting")
            assert (accepted.status_code, "preference-applied" in accepted.headers) == (202, False)
            assert (full.status_code, full.json()["type"]) == (503, "/problems/unavailable")
            assert full.headers["retry-after"] == refused.headers["retry-after"] == "2"
            assert [waiting.result(10).status_code for waiting in (first, second)] == [200, 200]


def test_redis_may_be_killed_while_hundreds_wait(postgres_server: PostgresServer):
    with fresh_database(postgres_server, "template0") as url, find_redis() as redis:
        migrate(url)
        with open_place(url, redis, look_again=0.3) as place:
            place.api.slug, place.api.keys = make_keys(place.database)
            jobs = [place.api.accepted() for _ in range(50)]
            family = place.api.accepted()
            place.work.complete(place.work.begin(family))
            child = str(add_child(place.database, family))
            waiting = [place.later("GET", f"/v1/jobs/{job_id}", headers=wait(50)) for job_id in jobs]
            whole = place.later("GET", f"/v1/jobs/{family}?until=family", headers=wait(50))
            lost = place.number("haulier_hints_lost_total")

            for number, job_id in enumerate([*jobs, child]):
                if number == 20:
                    redis.kill()
                place.work.complete(place.work.begin(job_id))

            for answer in [*waiting, whole]:
                assert answer.result(5).json()["family"]["state"] == "succeeded"
            assert place.number("haulier_hints_lost_total") > lost
            redis.start()
            eventually(place.hears)


def test_those_who_wait_are_answered_when_the_process_leaves(postgres_server: PostgresServer):
    with fresh_database(postgres_server, "template0") as url, find_redis() as redis:
        migrate(url)
        with open_place(url, redis, look_again=NEVER, drain=30) as place:
            place.api.slug, place.api.keys = make_keys(place.database)
            path = f"/v1/jobs/{place.api.accepted()}"
            tag = place.api.get(path).headers["etag"]
            polling = place.later("GET", path, headers=wait(50, tag))
            submitting = place.later("POST", "/v1/jobs", json=NOTE, headers=wait(50))
            assert place.api.server
            place.api.server.stop()

            assert polling.result(10).status_code == 304
            assert submitting.result(10).status_code == 202
