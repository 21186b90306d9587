"""Keys, roles and tenants."""

from __future__ import annotations

import pytest

from ledger import keys, orphans
from ledger.connection import Database
from ledger.keys import ROLES, make_key
from producers.intake.views import Keys, NewKeyView, Orphans, Tenants
from tests.intake.conftest import Api, Worker, eventually
from tests.intake.test_document import operations

ALL = frozenset(ROLES)

#: Who may do what, where it is not all keys: that each may, and the others may not, test_matrix tries as the document says it.
RESERVED: dict[frozenset[str], set[str]] = {
    frozenset({"submitter", "admin"}): {"accept_job", "accept_batch"},
    frozenset({"submitter", "operator", "admin", "platform"}): {"cancel_job"},
    frozenset({"operator", "admin", "platform"}): {"replay_dead_letter", "resolve_call"},
    frozenset({"admin", "platform"}): {
        "list_audit", "list_keys", "add_key", "revoke_key", "rotate_key", "show_limits", "change_limits", "add_webhook", "remove_webhook",
        "change_webhook", "redeliver", "redeliver_range", "rotate_webhook_secret", "test_webhook",
    },
    frozenset({"platform"}): {"list_orphan_messages", "list_tenants", "add_tenant"},
    frozenset({"watch"}): {"set_watch_cookie"},
    ALL | {"watch"}: {"show_job", "follow_job", "show_family", "show_timeline"},
}  # fmt: skip
#: What makes something and yet is reading.
READING = {"make_watch_token"}


def test_who_may_do_what_is_as_it_was_meant(api: Api):
    """The document follows the routes: a route that is opened by mistake says so, and only here it is known better."""
    meant = {operation: roles for roles, all_of_them in RESERVED.items() for operation in all_of_them}
    told = {
        operation["operationId"]: (method, frozenset(operation["x-roles"]))
        for method, path, operation in operations(api.document)
        if path.startswith("/v1/")
    }

    assert meant.keys() <= told.keys()
    for name, (method, roles) in told.items():
        assert roles == meant.get(name, ALL), name
        assert name in meant or method == "get" or name in READING, f"{name} changes something: say in RESERVED who may"


def test_who_is_refused_learns_what_it_takes(api: Api):
    unknown, refused = api.call("GET", "/v1/jobs", None), api.get("/v1/keys")

    assert (unknown.status_code, unknown.json()["type"]) == (401, "/problems/unauthenticated")
    assert unknown.headers["www-authenticate"].startswith("Bearer")
    assert (refused.status_code, refused.json()["type"]) == (403, "/problems/forbidden")
    assert "insufficient_scope" in refused.headers["www-authenticate"]
    assert "it takes admin, platform" in refused.json()["detail"]


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


def test_what_a_foreign_key_tried_has_changed_nothing(api: Api, worker: Worker):
    job_id, dead = api.accepted(), api.accepted()
    worker.kill(dead)

    tried = [
        api.post(f"/v1/jobs/{job_id}/cancel", role="foreign"),
        api.post(f"/v1/dead-letters/{dead}/replay", {"reason": "r"}, "foreign"),
        api.call("DELETE", f"/v1/keys/{api.keys['viewer'].split('_')[1]}", "foreign"),
    ]

    assert {answer.status_code for answer in tried} == {404}
    assert [api.get(f"/v1/jobs/{each}").json()["state"] for each in (job_id, dead)] == ["queued", "dead"]
    assert [len(api.get(f"/v1/jobs/{each}/timeline").json()["items"]) for each in (job_id, dead)] == [1, 3]
    assert api.get("/v1/jobs", "viewer").status_code == 200


def test_a_key_may_name_its_own_tenant(api: Api):
    assert api.get(f"/v1/jobs?tenant={api.slug}").status_code == 200


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
