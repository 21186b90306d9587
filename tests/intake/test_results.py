"""A job's result: how long it is kept, and what is said of what is gone."""

from __future__ import annotations

from contextlib import closing
from uuid import UUID

import orjson
import pytest

from config.ids import uuid7
from config.settings import Settings
from ledger import reading
from ledger.connection import Database
from ledger.roles import Role
from tests.intake.commands import HANDLERS
from tests.intake.conftest import NOTE, Api, Worker, eventually, make_keys, running_intake
from workers.upkeep import Upkeep

TITLED = {"command": "tests.note@2", "payload": {"text": "hello", "title": "Greeting"}}
#: As the conftest's commands say.
KEPT = 3600


def age(database: Database, job_id: str, seconds: float) -> None:
    with database.plumbing() as tx:
        tx.execute("update haulier.jobs set finished_at = now() - make_interval(secs => %s) where id = %s", (seconds, job_id))


def test_a_result_is_read_alone_with_its_etag(api: Api, worker: Worker):
    job_id = api.accepted()
    lease = worker.begin(job_id)
    early = api.get(f"/v1/jobs/{job_id}/result", "seeing")
    worker.complete(lease, '{"length": 5}')

    shown = api.get(f"/v1/jobs/{job_id}/result", "seeing")
    same = api.get(f"/v1/jobs/{job_id}/result", "seeing", headers={"if-none-match": shown.headers["etag"]})

    assert (early.status_code, early.json()["state"], early.headers["retry-after"]) == (409, "running", "1")
    assert (shown.status_code, shown.json(), same.status_code) == (200, {"length": 5}, 304)
    assert api.get(f"/v1/jobs/{job_id}/result").json() is None
    assert api.get(f"/v1/jobs/{job_id}/result", "foreign").status_code == 404


def test_a_job_that_ended_otherwise_has_no_result(api: Api, worker: Worker):
    job_id = api.accepted()
    worker.kill(job_id)

    answer = api.get(f"/v1/jobs/{job_id}/result", "seeing")

    assert (answer.status_code, answer.json()["detail"]) == (404, f"there is no result of job {job_id}: it ended dead")


def test_after_its_time_a_result_is_not_shown_even_before_it_is_taken_away(api: Api, worker: Worker, database: Database):
    job_id = api.accepted(TITLED)
    worker.complete(worker.begin(job_id), '{"length": 5}')
    fresh, kept = api.get(f"/v1/jobs/{job_id}", "seeing"), api.get(f"/v1/jobs/{job_id}/result", "seeing")
    age(database, job_id, KEPT + 1)

    late = api.get(f"/v1/jobs/{job_id}", "seeing", headers={"if-none-match": fresh.headers["etag"]})
    gone = api.get(f"/v1/jobs/{job_id}/result", "seeing")

    assert (fresh.json()["result"], kept.status_code) == ({"length": 5}, 200)
    assert fresh.json()["result_expires_at"] > fresh.json()["finished_at"]
    assert (late.status_code, late.json()["result"], late.json()["state"]) == (200, None, "succeeded")
    assert (gone.status_code, gone.json()["type"]) == (410, "/problems/gone")
    assert api.get(f"/v1/jobs/{api.accepted(NOTE)}").json()["result_expires_at"] is None


def test_where_a_command_says_nothing_the_setting_says_how_long(database: Database, worker: Worker):
    slug, made = make_keys(database)
    with running_intake(database, result_ttl=60) as running:
        api = Api(running.url, made, slug, running.server)
        plain, titled = api.accepted(NOTE), api.accepted(TITLED)
        for job_id in (plain, titled):
            worker.complete(worker.begin(job_id), '{"length": 5}')
        fresh = api.get(f"/v1/jobs/{plain}/result", "seeing")
        expires_at = api.get(f"/v1/jobs/{plain}").json()["result_expires_at"]
        for job_id in (plain, titled):
            age(database, job_id, 61)

        gone, kept = (api.get(f"/v1/jobs/{job_id}/result", "seeing") for job_id in (plain, titled))
        api.client.close()

    assert (fresh.status_code, gone.status_code, kept.status_code) == (200, 410, 200)
    assert expires_at is not None


def test_upkeep_takes_away_what_is_not_shown_any_more(api: Api, database: Database, worker: Worker):
    """However many it has to pass by: it rests at the end of all, and not after each step."""
    others = api.post("/v1/jobs/batch", content=orjson.dumps([NOTE] * 600), headers={"content-type": "application/json"})
    assert others.status_code == 207
    jobs = {name: api.accepted(body) for name, body in (("plain", NOTE), ("titled", TITLED), ("young", NOTE))}
    for name, job_id in jobs.items():
        worker.complete(worker.begin(job_id), '{"length": 5}')
        age(database, job_id, {"plain": 61, "titled": KEPT - 60, "young": 30}[name])
    settings = Settings(database_url=database.url, result_ttl=60)  # pyright: ignore[reportCallIssue, reportArgumentType]
    with closing(Database(database.url, Role.UPKEEP, size=1, by_index=True)) as own:
        upkeep = Upkeep(settings, own, HANDLERS)

        def left() -> set[str]:
            with own.plumbing() as tx:
                upkeep.tick(tx)
            with database.plumbing() as tx:
                return {name for name, job_id in jobs.items() if (job := reading.job(tx, UUID(job_id), None)) and job.result}

        eventually(lambda: left() == {"titled", "young"})


def at(days: float) -> UUID:
    made = uuid7()
    return UUID(int=made.int - (int(days * 86_400_000) << 80))


@pytest.mark.parametrize("path", ["", "/attempts", "/timeline", "/family", "/result"])
def test_a_job_older_than_retention_is_gone_whosever_it_was(api: Api, path: str):
    for role in ("viewer", "foreign"):
        old, young = api.get(f"/v1/jobs/{at(31)}{path}", role), api.get(f"/v1/jobs/{at(29)}{path}", role)

        assert (old.status_code, old.json()["type"]) == (410, "/problems/gone")
        assert young.status_code == 404


def test_the_same_holds_for_dead_letters_and_for_cancelling(api: Api):
    assert api.get(f"/v1/dead-letters/{at(31)}").status_code == 410
    assert api.post(f"/v1/dead-letters/{at(31)}/replay", {"reason": "x"}, "operator").status_code == 410
    assert api.post(f"/v1/jobs/{at(31)}/cancel").status_code == 410


def test_500_ids_fit_into_a_url(api: Api):
    there = [api.accepted() for _ in range(2)]
    others = [str(uuid7()) for _ in range(498)]

    plain = api.get(f"/v1/jobs?ids={','.join([*others, *there])}")
    escaped = api.get(f"/v1/jobs?ids={'%2C'.join([*others, *there])}&limit=50")
    too_many = api.get("/v1/jobs?ids=" + ",".join([*others, *there, str(uuid7())]))
    much_too_many = api.get("/v1/jobs?ids=" + ",".join([there[0]] * 1000))

    assert [job["id"] for job in plain.json()["items"]] == there
    assert escaped.json() == plain.json()
    assert (too_many.status_code, much_too_many.status_code) == (400, 414)
