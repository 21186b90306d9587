"""Final jobs in Redis: who gets them from there, and what is never kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
import redis
from prometheus_client import REGISTRY

from config.ids import uuid7
from ledger import jobs
from ledger.connection import Database
from ledger.jobs import Submission
from producers.intake import final_jobs
from tests.intake.conftest import NOTE, PAY, Api, Worker, make_keys, running_intake

TITLED = {"command": "tests.note@2", "payload": {"text": "hello", "title": "Greeting"}}


@dataclass
class Kept:
    api: Api
    redis: Any
    database: Database

    def names(self) -> set[str]:
        return {key.decode().rpartition(":")[2] for key in self.redis.keys("haulier:job:*")}

    def counts(self, outcome: str) -> float:
        return REGISTRY.get_sample_value("haulier_final_jobs_asked_total", {"outcome": outcome}) or 0

    def lose(self, job_id: str) -> None:
        """From the ledger, so that whoever still sees it has it from Redis."""
        with self.database.plumbing() as tx:
            tx.execute("delete from haulier.jobs where id = %s", (job_id,))


@pytest.fixture
def kept(database: Database, redis_url: str, request: pytest.FixtureRequest) -> Iterator[Kept]:
    """A parameter of the test says further settings."""
    slug, made = make_keys(database)
    with (
        running_intake(database, redis_url=redis_url, **getattr(request, "param", {})) as running,
        redis.Redis.from_url(redis_url) as client,
    ):
        client.flushdb()
        own = Api(running.url, made, slug, running.server)
        yield Kept(own, client, database)
        own.client.close()


def finished(kept: Kept, worker: Worker, body: object = NOTE, result: str = '{"length": 5, "price": 0.1}') -> str:
    job_id = kept.api.accepted(body)
    worker.complete(worker.begin(job_id), result)
    return job_id


def test_a_final_job_is_read_once_from_the_ledger_and_looks_the_same_from_redis(kept: Kept, worker: Worker):
    job_id = finished(kept, worker, {**NOTE, "labels": {"source": "web"}})
    fresh = kept.api.get(f"/v1/jobs/{job_id}", "seeing")
    kept.lose(job_id)

    again = kept.api.get(f"/v1/jobs/{job_id}", "seeing")
    same = kept.api.get(f"/v1/jobs/{job_id}", "seeing", headers={"if-none-match": fresh.headers["etag"]})

    assert (again.status_code, again.content, again.headers["etag"]) == (200, fresh.content, fresh.headers["etag"])
    assert same.status_code == 304
    assert kept.names() == {UUID(job_id).hex}


def test_each_viewer_sees_what_its_own_key_may(kept: Kept, worker: Worker):
    job_id = finished(kept, worker, PAY)
    kept.api.get(f"/v1/jobs/{job_id}", "seeing")
    kept.lose(job_id)

    plain, seeing = kept.api.get(f"/v1/jobs/{job_id}"), kept.api.get(f"/v1/jobs/{job_id}", "seeing")

    assert (plain.json()["result"], "payload" in plain.json()) == (None, False)
    assert seeing.json()["payload"]["token"] == "********"
    assert "tok_secret" not in seeing.text
    assert kept.api.get(f"/v1/jobs/{job_id}", "foreign").status_code == 404
    assert kept.api.get(f"/v1/jobs/{job_id}?tenant={kept.api.slug}", "platform").status_code == 404
    assert kept.api.get(f"/v1/jobs/{job_id}?tenant=other-{kept.api.slug}").status_code == 403


def test_nothing_is_kept_that_may_change(kept: Kept, worker: Worker):
    queued, parent, dead = kept.api.accepted(), finished(kept, worker), kept.api.accepted()
    worker.kill(dead)
    with kept.database.plumbing() as tx:
        row = tx.execute("select tenant_id from haulier.jobs where id = %s", (parent,)).fetchone()
        assert row
        child = Submission(uuid7(), row[0], "tests.note", "notes", b'{"text": "x"}', 5, parent_id=UUID(parent), root_id=UUID(parent))
        jobs.submit(tx, [child])

    for job_id in (queued, parent, dead):
        assert kept.api.get(f"/v1/jobs/{job_id}").status_code == 200
    before = kept.names()
    lease = worker.begin(str(child.id))
    worker.bury(lease)
    with_a_dead_child = kept.api.get(f"/v1/jobs/{parent}").json()["family"]

    assert before == kept.names() == set()
    assert with_a_dead_child == {"state": "dead", "counts": {"succeeded": 1, "dead": 1}}


@pytest.mark.parametrize(("kept", "body"), [({}, TITLED), ({"result_ttl": 3600}, NOTE)], indirect=["kept"])
def test_a_result_lies_there_no_longer_than_its_time(kept: Kept, worker: Worker, body: object):
    job_id = finished(kept, worker, body)
    with kept.database.plumbing() as tx:
        tx.execute("update haulier.jobs set finished_at = now() - interval '3000 seconds' where id = %s", (job_id,))
    kept.api.get(f"/v1/jobs/{job_id}", "seeing")

    [name] = kept.redis.keys("haulier:job:*")

    assert 0 < kept.redis.ttl(name) <= 600 < final_jobs.KEEP


def test_what_nobody_can_read_is_a_miss(kept: Kept, worker: Worker):
    job_id = finished(kept, worker)
    kept.api.get(f"/v1/jobs/{job_id}")
    [name] = kept.redis.keys("haulier:job:*")
    kept.redis.set(name, b'{"id": 1}')

    missed, hit = kept.counts("miss"), kept.counts("hit")
    first, second = kept.api.get(f"/v1/jobs/{job_id}"), kept.api.get(f"/v1/jobs/{job_id}")

    assert first.content == second.content
    assert (kept.counts("miss") - missed, kept.counts("hit") - hit) == (1, 1)


def test_without_redis_jobs_are_read_from_the_ledger(database: Database, worker: Worker):
    slug, made = make_keys(database)
    with running_intake(database, redis_url="redis://127.0.0.1:9") as running:
        api = Api(running.url, made, slug, running.server)
        job_id = api.accepted()
        worker.complete(worker.begin(job_id), "null")
        away = REGISTRY.get_sample_value("haulier_final_jobs_asked_total", {"outcome": "away"}) or 0

        assert api.get(f"/v1/jobs/{job_id}").json()["state"] == "succeeded"
        assert (REGISTRY.get_sample_value("haulier_final_jobs_asked_total", {"outcome": "away"}) or 0) == away + 1
        api.client.close()


def test_a_watch_token_opens_no_other_job_because_it_is_kept(kept: Kept, worker: Worker):
    mine, other = finished(kept, worker), finished(kept, worker)
    for job_id in (mine, other):
        kept.api.get(f"/v1/jobs/{job_id}", "seeing")
    token = kept.api.post(f"/v1/jobs/{mine}/watch-token").json()["token"]
    bearer = {"authorization": f"Bearer {token}"}

    assert kept.names() == {UUID(mine).hex, UUID(other).hex}
    assert kept.api.get(f"/v1/jobs/{mine}", headers=bearer).status_code == 200
    assert kept.api.get(f"/v1/jobs/{other}", headers=bearer).status_code == 404
