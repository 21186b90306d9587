"""What a caller may rely on: one wish is one job, waits end, lists are whole, errors say what they are."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import assert_type
from uuid import UUID

import pytest
from pydantic import ValidationError

from ledger import calls
from ledger.connection import Database
from producers.client import AsyncClient, Client, NoResultError, ProblemError, UnreachableError
from tests.client.conftest import Call
from tests.intake.commands import Note, Noted
from tests.intake.conftest import Api, Worker, count, eventually
from tests.intake.proxy import Proxy
from tests.intake.test_limits import limited


def test_a_submission_whose_answer_is_lost_is_one_job(call: Call, api: Api, database: Database):
    proxy = Proxy(api.url)
    proxy.lose(b"POST /v1/jobs ")  # the intake carries it out; what is lost is its answer

    job = call("submit", "tests.note", {"text": "hello"}, url=proxy.url)
    proxy.close()

    assert proxy.losses == 1
    assert count(database, api) == 1
    assert api.get(f"/v1/jobs/{job['id']}").status_code == 200


def test_a_set_whose_answer_is_lost_is_accepted_once_and_answered_in_order(call: Call, api: Api, database: Database):
    proxy = Proxy(api.url)
    proxy.lose(b"POST /v1/jobs/batch ")
    wishes = [{"command": "tests.note", "payload": {"text": str(n)}} for n in range(20)]

    batch = call("submit_many", [*wishes, {"command": "tests.nope", "payload": {}}], url=proxy.url)
    proxy.close()

    assert (proxy.losses, count(database, api)) == (1, 20)
    assert [item["status"] for item in batch.items] == [202] * 20 + [422]
    shown = api.get("/v1/jobs?ids=" + ",".join(batch.ids[:20]), "seeing").json()["items"]
    assert [job["payload"]["text"] for job in shown] == [str(n) for n in range(20)]


def test_a_set_that_was_taken_in_part_goes_on_behind_it(call: Call, api: Api, database: Database):
    """The intake writes 500 at a time; of 1,000, a limit lets the first 500 through at once."""
    limited(api, {"submissions": {"rate": 400, "burst": 600}}, database)

    batch = call("submit_many", [{"command": "tests.note", "payload": {"text": str(n)}} for n in range(1000)])

    assert ([item["status"] for item in batch.items], count(database, api)) == ([202] * 1000, 1000)
    shown = api.get("/v1/jobs?ids=" + ",".join(batch.ids[400:600]), "seeing").json()["items"]
    assert [job["payload"]["text"] for job in shown] == [str(n) for n in range(400, 600)]


def test_a_command_brings_its_name_and_payload_and_the_same_key_is_the_same_job(call: Call, api: Api):
    first, second = (call("submit", Note(text="hello"), idempotency_key="a key", labels={"source": "web"}) for _ in range(2))

    assert (first["id"], first["labels"], first["command"]) == (second["id"], {"source": "web"}, "tests.note")
    assert api.get(f"/v1/jobs/{first['id']}", "seeing").json()["payload"] == {"text": "hello"}


def test_a_wait_ends_with_the_job(call: Call, api: Api, worker: Worker):
    job_id = api.accepted()
    thread = threading.Thread(target=lambda: worker.complete(worker.begin(job_id), '{"length": 1}'))
    thread.start()

    job = call("wait", job_id, timeout=20)
    thread.join()

    assert job["state"] == "succeeded"
    assert call("wait", job_id, until="family", timeout=5)["family"]["state"] == "succeeded"


def test_a_wait_that_is_too_long_says_so(call: Call, api: Api):
    with pytest.raises(TimeoutError, match="is queued after 1 s"):
        call("wait", api.accepted(), timeout=1)


def test_a_list_is_walked_to_its_end(call: Call, api: Api):
    ids = [api.accepted() for _ in range(5)]

    assert [job["id"] for job in call("jobs", limit=2)] == ids[::-1]


def test_an_error_is_an_exception_that_holds_the_problem(call: Call, api: Api):
    with pytest.raises(ProblemError, match=r"did you mean 'tests\.note'") as caught:
        call("submit", "tests.ntoe", {})
    with pytest.raises(ProblemError) as foreign:
        call("job", api.accepted(role="foreign"))

    assert (caught.value.status, caught.value.kind) == (422, "unknown-command")
    assert (foreign.value.status, foreign.value.problem["type"]) == (404, "/problems/not-found")


def test_nobody_there_is_said_at_the_deadline(call: Call):
    with pytest.raises(UnreachableError, match="POST /v1/jobs"):
        call("submit", "tests.note", {"text": "x"}, url="http://127.0.0.1:9")


def test_a_client_works_with_a_watch_token(call: Call, api: Api):
    job_id = api.accepted()

    token = call("watch_token", job_id, expires_in=60)["token"]

    assert call("job", job_id, key=token)["id"] == job_id
    with pytest.raises(ProblemError, match="403"):
        call("cancel", job_id, key=token)


def test_a_result_comes_as_the_model_that_was_asked_for(call: Call, api: Api, worker: Worker):
    job_id = api.accepted()
    thread = threading.Thread(target=lambda: worker.complete(worker.begin(job_id), '{"length": 5}'))
    thread.start()

    result = call("result", job_id, Noted, timeout=20, role="seeing")
    thread.join()

    assert result == Noted(length=5)
    with pytest.raises(ValidationError, match="text"):
        call("result", job_id, Note, role="seeing")


def test_without_a_result_the_job_s_end_is_told(call: Call, api: Api, worker: Worker):
    dead, cancelled, open_job = api.accepted(), api.accepted(), api.accepted()
    worker.kill(dead)
    api.post(f"/v1/jobs/{cancelled}/cancel")

    with pytest.raises(NoResultError, match=f"job {dead} is dead, broken: it Broke") as caught:
        call("result", dead, Noted, role="seeing")
    with pytest.raises(NoResultError, match=r"is cancelled$"):
        call("result", cancelled, Noted)
    with pytest.raises(TimeoutError):
        call("result", open_job, Noted, timeout=0.1)

    assert caught.value.job["reason"] == "permanent"


def test_a_result_that_is_not_shown_or_gone_is_none(call: Call, api: Api, worker: Worker, database: Database):
    shown, gone = api.accepted(), api.accepted({"command": "tests.note@2", "payload": {"text": "hello", "title": "Greeting"}})
    for job_id in (shown, gone):
        worker.complete(worker.begin(job_id), '{"length": 5}')
    with database.plumbing() as tx:
        tx.execute("update haulier.jobs set finished_at = now() - interval '2 hours' where id = %s", (gone,))

    with pytest.raises(NoResultError, match="this key, which has no payloads"):
        call("result", shown, Noted)
    with pytest.raises(ProblemError, match="410 gone"):
        call("result", gone, Noted, role="seeing")


def test_a_type_checker_knows_what_a_result_is(api: Api, worker: Worker):
    job_id = api.accepted()
    worker.complete(worker.begin(job_id), '{"length": 5}')

    async def read() -> int:
        async with AsyncClient(api.url, api.keys["seeing"]) as client:
            return assert_type(await client.result(job_id, Noted), Noted).length

    with Client(api.url, api.keys["seeing"]) as client:
        length = assert_type(client.result(job_id, Noted), Noted).length

    assert length == asyncio.run(read()) == 5


@pytest.mark.parametrize("outcome, told", [("happened", {"id": 7}), ("did_not_happen", None)])
def test_a_call_of_unknown_outcome_is_resolved_and_the_job_goes_on(
    call: Call, api: Api, worker: Worker, database: Database, outcome: str, told: object
):
    job_id = api.accepted()
    lease = worker.begin(job_id)
    with database.plumbing() as tx:
        for step in ("charge", "ship"):
            calls.intend(tx, lease, step, 0, honours_key=False)
    worker.bury(lease, "needs_review")

    first = call("resolve", job_id, "ship", "did_not_happen", "asked the carrier", role="operator")
    second = call("resolve", job_id, "charge", outcome, "asked the bank", result=told, role="operator")

    assert (first["state"], second["state"]) == ("dead", "queued")
    with database.plumbing() as tx:
        found = calls.find(tx, UUID(job_id), "charge", 0)
    assert getattr(found, "result", None) == told
    with pytest.raises(ProblemError, match="409 wrong-state"):
        call("resolve", job_id, "charge", outcome, "asked again", role="operator")


def test_cancelling_and_replaying(call: Call, api: Api, worker: Worker):
    waiting, dead = api.accepted(), api.accepted()
    worker.kill(dead)

    assert call("cancel", waiting)["state"] == "cancelled"
    assert call("replay", dead, "fixed", role="operator")["state"] == "queued"
    eventually(lambda: api.get(f"/v1/jobs/{dead}").json()["state"] == "queued")


def test_who_only_has_the_client_does_not_wait_for_the_ledgers_half():
    """A command that people type starts in a third of a second, and not in one."""
    look = "import sys; import producers.client, console.client; print(*{'sqlalchemy', 'psycopg', 'redis', 'fastapi', 'dramatiq'} & sys.modules.keys())"

    loaded = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout.split()

    assert loaded == []
