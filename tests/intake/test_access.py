"""Keys, roles and tenants."""

from __future__ import annotations

from typing import Any

import pytest

from ledger import keys, orphans
from ledger.connection import Database
from ledger.keys import make_key
from producers.intake.views import Keys, NewKeyView, Orphans, Tenants
from tests.intake.conftest import NOTE, Api, Worker, eventually

ROLES = ("viewer", "submitter", "operator", "admin", "platform")

#: Method, path, body, and who may. `{dead}` is a dead letter, `{job}` a queued job.
MATRIX: list[tuple[str, str, Any, set[str]]] = [
    ("POST", "/v1/jobs", NOTE, {"submitter", "admin"}),
    ("GET", "/v1/jobs", None, set(ROLES)),
    ("GET", "/v1/jobs/{job}", None, set(ROLES)),
    ("GET", "/v1/jobs/{job}/attempts", None, set(ROLES)),
    ("GET", "/v1/jobs/{job}/timeline", None, set(ROLES)),
    ("GET", "/v1/jobs/{job}/family", None, set(ROLES)),
    ("POST", "/v1/jobs/{job}/watch-token", None, set(ROLES)),
    ("POST", "/v1/jobs/{job}/watch-cookie", None, set()),
    ("POST", "/v1/jobs/{job}/cancel", None, {"submitter", "operator", "admin", "platform"}),
    ("GET", "/v1/commands", None, set(ROLES)),
    ("GET", "/v1/commands/tests.note", None, set(ROLES)),
    ("GET", "/v1/dead-letters", None, set(ROLES)),
    ("GET", "/v1/dead-letters/{dead}", None, set(ROLES)),
    ("POST", "/v1/dead-letters/{dead}/replay", {"reason": "r"}, {"operator", "admin", "platform"}),
    ("POST", "/v1/dead-letters/{dead}/resolve", {"step": "s", "outcome": "happened", "reason": "r"}, {"operator", "admin", "platform"}),
    ("GET", "/v1/orphan-messages", None, {"platform"}),
    ("GET", "/v1/tenants", None, {"platform"}),
    ("POST", "/v1/tenants", {"slug": "!", "name": ""}, {"platform"}),
    ("GET", "/v1/keys", None, {"admin", "platform"}),
    ("POST", "/v1/keys", {"role": "none", "name": ""}, {"admin", "platform"}),
    ("DELETE", "/v1/keys/aaaaaaaa", None, {"admin", "platform"}),
    ("POST", "/v1/keys/aaaaaaaa/rotate", {}, {"admin", "platform"}),
    ("GET", "/v1/limits", None, {"admin", "platform"}),
    ("PUT", "/v1/limits", {}, {"admin", "platform"}),
]
WITHOUT_TENANT = {("POST", "/v1/jobs"), ("GET", "/v1/orphan-messages"), ("GET", "/v1/tenants"), ("POST", "/v1/tenants")}


@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_do_its_own_and_nothing_else(api: Api, worker: Worker, role: str):
    dead = api.accepted()
    worker.kill(dead)
    wrong: list[str] = []

    for method, path, body, roles in MATRIX:
        query = f"?tenant={api.slug}" if role == "platform" and (method, path) not in WITHOUT_TENANT else ""
        answer = api.call(method, path.format(job=api.accepted(), dead=dead) + query, role, **({"json": body} if body is not None else {}))
        if (answer.status_code == 403) == (role in roles) or answer.status_code in {401, 500}:
            wrong.append(f"{method} {path}: {answer.status_code}")
        if answer.status_code == 403:
            assert "insufficient_scope" in answer.headers["www-authenticate"]

    assert wrong == []


@pytest.mark.parametrize(("method", "path", "body", "_roles"), MATRIX)
def test_without_a_key_nothing_is_done(api: Api, method: str, path: str, body: Any, _roles: set[str]):
    path = path.format(job="00000000-0000-0000-0000-000000000000", dead="00000000-0000-0000-0000-000000000000")

    answer = api.call(method, path, None, **({"json": body} if body is not None else {}))

    assert (answer.status_code, answer.json()["type"]) == (401, "/problems/unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "value",
    ["Bearer x", "Bearer", "Basic abc", "bearer hl_a_b", pytest.param(f"Bearer {make_key()[0]}", id="Bearer of nobody"), "é"],
)
def test_a_key_that_is_none_is_a_401(api: Api, value: str):
    assert api.client.get("/v1/jobs", headers=[(b"authorization", value.encode())]).status_code == 401


def test_a_key_with_a_changed_letter_is_a_401(api: Api):
    key = api.keys["viewer"]

    answer = api.call("GET", "/v1/jobs", None, headers={"authorization": f"Bearer {key[:20]}{'a' if key[20] != 'a' else 'b'}{key[21:]}"})

    assert answer.status_code == 401


def test_another_tenants_things_are_a_404_for_every_role(api: Api, worker: Worker):
    job_id, dead = api.accepted(), api.accepted()
    worker.kill(dead)
    wishes = {"replay": {"reason": "r"}, "resolve": {"step": "s", "outcome": "happened", "reason": "r"}}

    read = [api.get(f"/v1/jobs/{job_id}{part}", "foreign") for part in ("", "/attempts", "/timeline", "/family")]
    read.append(api.get(f"/v1/dead-letters/{dead}", "foreign"))
    done = [api.post(f"/v1/dead-letters/{dead}/{verb}", body, "foreign") for verb, body in wishes.items()]
    done.append(api.post(f"/v1/jobs/{job_id}/cancel", role="foreign"))
    revoked = api.call("DELETE", f"/v1/keys/{api.keys['viewer'].split('_')[1]}", "foreign")

    assert {answer.status_code for answer in (*read, *done, revoked)} == {404}
    assert api.get("/v1/jobs", "foreign").json()["items"] == []
    assert api.get("/v1/dead-letters", "foreign").json()["items"] == []
    assert api.get(f"/v1/jobs/{job_id}").json()["state"] == "queued"


def test_only_a_platform_key_names_a_tenant(api: Api):
    own = api.get(f"/v1/jobs?tenant={api.slug}")
    others = [api.get(f"/v1/jobs?tenant={slug}") for slug in (f"other-{api.slug}", "no-such-one", "*")]

    assert own.status_code == 200
    assert {answer.status_code for answer in others} == {403}


def test_a_platform_key_says_whose_or_all(api: Api, worker: Worker):
    mine, theirs = api.accepted(), api.accepted(role="foreign")
    worker.kill(mine)

    one = api.get(f"/v1/jobs?tenant={api.slug}", "platform").json()["items"]
    both = api.get("/v1/jobs?limit=2&tenant=*", "platform").json()["items"]
    replayed = api.post(f"/v1/dead-letters/{mine}/replay?tenant=*", {"reason": "r"}, "platform")

    assert [(job["id"], job["tenant"]) for job in one] == [(mine, api.slug)]
    assert [(job["id"], job["tenant"]) for job in both] == [(theirs, f"other-{api.slug}"), (mine, api.slug)]
    assert replayed.status_code == 202
    assert api.get(f"/v1/jobs/{theirs}?tenant={api.slug}", "platform").status_code == 404
    assert api.get("/v1/jobs", "platform").status_code == 400
    assert api.get("/v1/jobs?tenant=no-such-one", "platform").status_code == 404


def test_a_tenant_and_its_first_keys_are_made_over_http(api: Api):
    slug = f"new-{api.slug}"
    made = api.post("/v1/tenants", {"slug": slug, "name": "New"}, "platform")
    again = api.post("/v1/tenants", {"slug": slug, "name": "New"}, "platform")
    admin = api.post(f"/v1/keys?tenant={slug}", {"role": "admin", "name": "first"}, "platform")
    api.keys["new"] = NewKeyView.model_validate(admin.json()).key
    submitter = api.post("/v1/keys", {"role": "submitter", "name": "web", "payloads": True, "expires_at": "2099-01-01T00:00:00Z"}, "new")
    api.keys["web"] = submitter.json()["key"]

    assert (made.status_code, again.status_code, again.json()["type"]) == (201, 409, "/problems/slug-taken")
    assert (admin.status_code, admin.json()["tenant"], admin.json()["role"]) == (201, slug, "admin")
    assert api.submit(role="web").status_code == 202
    assert api.get("/v1/jobs", "web").json()["items"][0]["payload"] == {"text": "hello"}
    listed = api.get("/v1/keys", "new")
    assert [key.name for key in Keys.model_validate(listed.json()).items] == ["web", "first"]
    assert api.keys["web"] not in listed.text
    assert slug in [tenant.slug for tenant in Tenants.model_validate(api.get("/v1/tenants", "platform").json()).items]


@pytest.mark.parametrize(
    "body", [{"slug": "Upper", "name": "n"}, {"slug": "", "name": "n"}, {"slug": "a" * 64, "name": "n"}, {"slug": "a"}]
)
def test_a_tenant_that_cannot_be_is_a_422(api: Api, body: dict[str, str]):
    assert api.post("/v1/tenants", body, "platform").status_code == 422


def test_an_admin_makes_no_platform_key(api: Api):
    body = {"role": "platform", "name": "mine"}

    assert api.post("/v1/keys", body, "admin").status_code == 403
    assert api.post(f"/v1/keys?tenant={api.slug}", body, "platform").status_code == 400
    assert api.post("/v1/keys", {**body, "role": "viewer"}, "platform").status_code == 400
    made = api.post("/v1/keys", body, "platform")
    assert (made.status_code, made.json()["tenant"]) == (201, None)


def test_a_revoked_key_is_refused_within_five_seconds(api: Api):
    prefix = api.keys["submitter"].split("_")[1]
    api.accepted()

    revoked = api.call("DELETE", f"/v1/keys/{prefix}", "admin")
    eventually(lambda: api.submit().status_code == 401, seconds=5)

    assert (revoked.status_code, revoked.content) == (204, b"")
    assert api.call("DELETE", f"/v1/keys/{prefix}", "admin").status_code == 404


def test_a_key_past_its_time_is_refused(api: Api, database: Database):
    with database.plumbing() as tx:
        tenant = keys.find_tenant(tx, api.slug)
        assert tenant
        _, api.keys["old"] = keys.add_key(tx, tenant.id, "viewer", "old")
        tx.execute("update haulier.api_keys set expires_at = now() where name = 'old'")

    assert api.get("/v1/jobs", "old").status_code == 401


def test_orphan_messages_are_shown_raw_to_the_platform(api: Api, database: Database):
    with database.plumbing() as tx:
        orphans.keep(tx, "notes", b"\x80garbage", "it is not JSON", {"x": 1})

    answer = api.get("/v1/orphan-messages", "platform")

    orphan = Orphans.model_validate(answer.json()).items[0]
    assert (orphan.queue, orphan.body, orphan.reason, orphan.times) == ("notes", "gGdhcmJhZ2U=", "it is not JSON", 1)
