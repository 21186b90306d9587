"""Every change by a person or a key leaves one record of who, what, when, from where and why, or none when nothing changed."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from ledger import audit, sealing
from ledger.connection import Database
from tests.intake.conftest import Api, Worker


def records(database: Database, target: str) -> list[tuple[Any, ...]]:
    """Action, who, origin, reason and data of what was done to a target, in order; of which tenant."""
    query = """
select t.slug, a.action, a.who, a.origin, a.reason, a.data from haulier.audit a left join haulier.tenants t on t.id = a.tenant_id
 where a.target = %s order by a.id
"""
    with database.plumbing() as tx:
        return tx.execute(query, (target,)).fetchall()


def who(api: Api, role: str) -> str:
    return f"key:{api.keys[role].split('_')[1]}"


def test_a_cancel_is_recorded_and_one_that_changed_nothing_is_not(api: Api, database: Database):
    job_id = api.accepted()

    assert [api.post(f"/v1/jobs/{job_id}/cancel").status_code for _ in range(2)] == [200, 409]

    assert records(database, job_id) == [(api.slug, "job.cancel", who(api, "submitter"), "127.0.0.1", None, None)]


def test_a_replay_is_recorded_with_its_reason(api: Api, database: Database, worker: Worker):
    job_id = api.accepted()
    worker.kill(job_id)

    for _ in range(2):
        api.post(f"/v1/dead-letters/{job_id}/replay", {"reason": "mended", "payload": {"text": "other"}}, "operator")

    assert records(database, job_id) == [(api.slug, "job.replay", who(api, "operator"), "127.0.0.1", "mended", {"edited": True})]


def test_the_platform_s_change_is_recorded_with_the_tenant_whose_it_was(api: Api, database: Database):
    job_id = api.accepted()

    api.post(f"/v1/jobs/{job_id}/cancel?tenant=*", role="platform")

    assert [(each[0], each[2]) for each in records(database, job_id)] == [(api.slug, who(api, "platform"))]


def test_a_tenant_and_the_life_of_a_key_are_recorded(api: Api, database: Database):
    slug = f"new-{api.slug}"
    for _ in range(2):
        api.post("/v1/tenants", {"slug": slug, "name": "New"}, "platform")
    first = api.post("/v1/keys", {"role": "viewer", "name": "web"}, "admin").json()
    second = api.post(f"/v1/keys/{first['prefix']}/rotate", {"overlap": 60, "reason": "it leaked"}, "admin").json()
    for _ in range(2):
        api.call("DELETE", f"/v1/keys/{second['id']}", "admin")

    assert [(each[0], each[1], each[2]) for each in records(database, slug)] == [(slug, "tenant.create", who(api, "platform"))]
    assert [each[1:] for each in records(database, first["prefix"])] == [
        ("key.create", who(api, "admin"), "127.0.0.1", None, {"role": "viewer", "name": "web", "payloads": False, "expires_at": None}),
        ("key.rotate", who(api, "admin"), "127.0.0.1", "it leaked", {"new": second["prefix"], "overlap": 60.0}),
    ]
    assert [each[1] for each in records(database, second["prefix"])] == ["key.revoke"]


def test_a_change_whose_record_cannot_be_written_does_not_happen(api: Api, monkeypatch: pytest.MonkeyPatch):
    job_id = api.accepted()

    def fail(*_: object, **__: object) -> None:
        raise psycopg.errors.DiskFull("the audit is full")

    monkeypatch.setattr(audit, "record", fail)
    answers = [
        api.post(f"/v1/jobs/{job_id}/cancel"),
        api.call("DELETE", f"/v1/keys/{api.keys['viewer'].split('_')[1]}", "admin"),
        api.post("/v1/keys", {"role": "viewer", "name": "unrecorded"}, "admin"),
    ]

    assert {answer.status_code for answer in answers} == {503}
    assert api.get(f"/v1/jobs/{job_id}").json()["state"] == "queued"
    listed = api.get("/v1/keys", "admin").json()["items"]
    assert all(key["revoked_at"] is None and key["name"] != "unrecorded" for key in listed)


def test_the_audit_is_listed_a_page_at_a_time_with_its_seals(api: Api, database: Database):
    jobs = [api.accepted() for _ in range(3)]
    for job_id in jobs:
        api.post(f"/v1/jobs/{job_id}/cancel")
    with database.plumbing() as tx, tx.transaction():
        sealing.seal(tx, 10_000)

    first = api.get(f"/v1/audit?action=job.cancel&who={who(api, 'submitter')}&limit=2", "admin").json()
    rest = api.get(f"/v1/audit?action=job.cancel&who={who(api, 'submitter')}&limit=2&cursor={first['next_cursor']}", "admin").json()
    [one] = api.get(f"/v1/audit?target={jobs[0]}&tenant={api.slug}", "platform").json()["items"]

    shown = first["items"] + rest["items"]
    assert [each["target"] for each in shown] == jobs[::-1]
    assert rest["next_cursor"] is None
    places = [each["seal"]["seq"] for each in shown]
    assert places == list(range(places[-1] + 2, places[-1] - 1, -1))
    assert one == shown[2]
    assert one["tenant"] == api.slug
    assert api.get(f"/v1/audit?made_after={shown[0]['at']}", "admin").json()["items"] == []
    assert api.get("/v1/audit?action=job.cancel&cursor=" + first["next_cursor"], "admin").status_code == 400


def test_only_admins_see_the_audit(api: Api):
    statuses = {role: api.get("/v1/audit", role).status_code for role in ("viewer", "submitter", "operator", "admin")}

    assert statuses == {"viewer": 403, "submitter": 403, "operator": 403, "admin": 200}
