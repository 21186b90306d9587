"""Webhooks over HTTP: made by admins, read by all, changed from a known version; secrets once; deliveries listed and sent again."""

from __future__ import annotations

import socket
from typing import Any
from uuid import UUID

import psycopg
import pytest

import producers
from config.ids import uuid7
from ledger import deliveries
from ledger.connection import Database
from ledger.jobs import Unique
from ledger.roles import Role
from producers.intake import batching
from producers.intake.views import DeliveryView, NewWebhookView, WebhookView
from tests.intake.commands import HANDLERS, Note
from tests.intake.conftest import NOTE, Api, Worker, count
from workers.webhooks import dispatch

URL = "https://hooks.example.com/haulier?token=hunter2"
WISH: dict[str, Any] = {"url": URL, "events": ["job.succeeded", "job.dead"]}


@pytest.fixture(autouse=True)
def a_known_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example's name leads to a public address, whatever this machine's resolver can."""
    ask = socket.getaddrinfo

    def answer(host: Any, *rest: Any, **more: Any) -> Any:
        return (
            [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.215.14", 443))]
            if host == "hooks.example.com"
            else ask(host, *rest, **more)
        )

    monkeypatch.setattr(socket, "getaddrinfo", answer)


def made(api: Api, **fields: Any) -> dict[str, Any]:
    answer = api.post("/v1/webhooks", {**WISH, **fields}, "admin")
    assert answer.status_code == 201, answer.text
    return answer.json()


def tell(database: Database) -> None:
    own = Database(database.url, Role.UPKEEP, by_index=True)
    more = True
    while more:
        with own.plumbing() as tx, tx.transaction():
            more = dispatch(tx).more
    own.close()


def test_a_webhook_is_made_and_its_secret_is_shown_once(api: Api, database: Database):
    answer = api.post("/v1/webhooks", {**WISH, "name": "ours", "commands": ["tests.note"]}, "admin")

    new = NewWebhookView.model_validate(answer.json())
    assert (answer.status_code, answer.headers["location"]) == (201, f"/v1/webhooks/{new.id}")
    assert new.secret.startswith("whsec_")
    shown = api.get(answer.headers["location"])
    assert WebhookView.model_validate(shown.json()).name == "ours"
    assert shown.headers["etag"] == answer.headers["etag"]
    assert "secret" not in shown.text
    assert "whsec_" not in api.get("/v1/webhooks").text
    with database.plumbing() as tx:
        audited = str(tx.execute("select to_jsonb(a) from haulier.audit a where target = %s", (str(new.id),)).fetchall())
    assert "webhook.create" in audited
    assert new.secret not in audited
    assert "hunter2" not in audited


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"url": "http://hooks.example.com/"}, "/url"), ({"url": "https://127.0.0.1/"}, "/url"), ({"url": "https://ok@hooks.example.com/"}, "/url"),
        ({"url": "https://hooks.example.com:6379/"}, "/url"), ({"events": []}, "/events"), ({"events": ["job.started"]}, "/events/0"),
        ({"commands": []}, "/commands"), ({"colour": "red"}, "/colour"),
    ],
)  # fmt: skip
def test_a_wish_that_makes_no_sense_is_refused(api: Api, fields: dict[str, Any], pointer: str):
    answer = api.post("/v1/webhooks", {**WISH, **fields}, "admin")

    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


def test_only_admins_change_and_others_do_not_even_see(api: Api):
    path = f"/v1/webhooks/{made(api)['id']}"

    for role in ("viewer", "submitter", "operator"):
        assert api.post("/v1/webhooks", WISH, role).status_code == 403
        assert api.call("DELETE", path, role).status_code == 403
        assert api.get(path, role).status_code == 200
    for method, where, body in (
        ("GET", path, None), ("DELETE", path, None), ("POST", f"{path}/test", None), ("GET", f"{path}/deliveries", None),
        ("POST", f"{path}/rotate", {}), ("POST", f"{path}/redeliver", {"since": "2026-01-01T00:00:00Z"}),
    ):  # fmt: skip
        assert api.call(method, where, "foreign", **({} if body is None else {"json": body})).status_code == 404
    change = api.call("PATCH", path, "foreign", json={"enabled": False}, headers={"if-match": "*"})
    assert change.status_code == 404
    assert api.get(path).json()["enabled"]


def test_a_change_names_the_version_that_it_is_made_from(api: Api):
    path = f"/v1/webhooks/{made(api)['id']}"
    tag = api.get(path).headers["etag"]

    assert api.call("PATCH", path, "admin", json={"name": "x"}).status_code == 428
    first = api.call("PATCH", path, "admin", json={"enabled": False, "name": "mine"}, headers={"if-match": tag})
    second = api.call("PATCH", path, "admin", json={"name": "yours"}, headers={"if-match": tag})

    assert (first.status_code, second.status_code) == (200, 412)
    found = api.get(path)
    assert (found.json()["name"], found.json()["enabled"], found.json()["url"]) == ("mine", False, URL)
    assert found.json()["disabled_reason"].startswith("disabled by key:")
    assert found.headers["etag"] == first.headers["etag"] != tag
    again = api.call("PATCH", path, "admin", json={"enabled": True}, headers={"if-match": first.headers["etag"]})
    assert (again.json()["enabled"], again.json()["disabled_reason"]) == (True, None)


def test_a_removed_webhook_is_not_there(api: Api):
    path = f"/v1/webhooks/{made(api)['id']}"

    assert api.call("DELETE", path, "admin").status_code == 204
    assert api.call("DELETE", path, "admin").status_code == 404
    assert api.get(path).status_code == 404


def test_a_rotation_shows_a_new_secret_and_both_sign(api: Api, database: Database):
    new = made(api)

    rotated = api.post(f"/v1/webhooks/{new['id']}/rotate", {"overlap": 60}, "admin")

    assert rotated.status_code == 200
    assert rotated.json()["secret"] != new["secret"]
    with database.plumbing() as tx:
        live = tx.execute(
            "select secret from haulier.webhook_secrets where webhook_id = %s and (expires_at is null or expires_at > now()) order by id",
            (new["id"],),
        ).fetchall()
    assert live == [(new["secret"],), (rotated.json()["secret"],)]


def test_a_test_is_a_delivery(api: Api):
    new = made(api)

    answer = api.post(f"/v1/webhooks/{new['id']}/test", role="admin")

    shown = DeliveryView.model_validate(answer.json())
    assert (answer.status_code, shown.event, shown.state, shown.job_id) == (202, "webhook.test", "pending", None)
    assert api.get(f"/v1/webhooks/{new['id']}/deliveries/{shown.id}").json()["id"] == str(shown.id)


def test_a_job_calls_back_and_only_to_a_webhook_of_its_own_tenant(api: Api, database: Database, worker: Worker):
    new = made(api, events=["job.dead"])
    job = api.accepted({**NOTE, "callback": new["id"]})
    worker.complete(worker.begin(job), "{}")
    tell(database)

    [delivery] = api.get(f"/v1/webhooks/{new['id']}/deliveries").json()["items"]

    assert (delivery["job_id"], delivery["event"]) == (job, "job.succeeded")
    foreign = api.post("/v1/webhooks", WISH, "foreign").json()["id"]
    for wrong in (foreign, str(uuid7())):
        answer = api.submit({**NOTE, "callback": wrong})
        assert answer.status_code == 422
        assert [error["pointer"] for error in answer.json()["errors"]] == ["/callback"]
    assert api.submit({**NOTE, "callback": "x"}).status_code == 422


def test_items_of_a_batch_call_back_each_its_own(api: Api, database: Database, worker: Worker):
    first, second, foreign = made(api)["id"], made(api)["id"], api.post("/v1/webhooks", WISH, "foreign").json()["id"]
    callbacks = [first, None, second, foreign, str(uuid7()), first]
    items = [NOTE if each is None else {**NOTE, "callback": each} for each in callbacks]
    items.append({**NOTE, "callback": "x"})

    answer = api.post("/v1/jobs/batch", items, headers={"idempotency-key": "k"})
    api.call("DELETE", f"/v1/webhooks/{second}", "admin")
    again = api.post("/v1/jobs/batch", items, headers={"idempotency-key": "k"})

    shown = answer.json()["items"]
    assert [item["status"] for item in shown] == [202, 202, 202, 422, 422, 202, 422]
    assert [item["problem"]["errors"][0]["pointer"] for item in shown if item["status"] == 422] == ["/callback"] * 3
    jobs = [item.get("id") for item in shown]
    assert called_back(database, api) == {(jobs[0], first), (jobs[2], second), (jobs[5], first)}
    assert [item.get("id") for item in again.json()["items"]] == jobs  # whatever has become of the webhook
    assert count(database, api) == 4


def test_an_atomic_batch_calls_back_or_is_refused_as_a_whole(api: Api, database: Database, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batching, "SET_ITEMS", 2)
    webhook = made(api)["id"]
    good = [{**NOTE, "callback": webhook} for _ in range(5)]

    refused = api.post("/v1/jobs/batch?atomic=true", [good[0], {**NOTE, "callback": str(uuid7())}, good[1]])
    none = count(database, api)
    answer = api.post("/v1/jobs/batch?atomic=true", good, headers={"idempotency-key": "k"})
    api.call("DELETE", f"/v1/webhooks/{webhook}", "admin")
    again = api.post("/v1/jobs/batch?atomic=true", good, headers={"idempotency-key": "k"})

    assert (refused.status_code, [error["pointer"] for error in refused.json()["errors"]], none) == (422, ["/1/callback"], 0)
    assert called_back(database, api) == {(job, webhook) for job in answer.json()["ids"]}
    assert (again.status_code, again.json()) == (202, answer.json())


def test_a_repeat_is_the_same_job_whatever_has_become_of_its_webhook(api: Api):
    webhook = made(api)["id"]
    wish = {**NOTE, "callback": webhook}
    job = api.submit(wish, "k").json()["id"]
    batch = api.post("/v1/jobs/batch", [{**wish, "idempotency_key": "i"}]).json()["items"]

    api.call("DELETE", f"/v1/webhooks/{webhook}", "admin")

    assert api.submit(wish, "k").json()["id"] == job
    assert api.submit(wish).status_code == 422
    again = api.post("/v1/jobs/batch", [{**wish, "idempotency_key": "i"}]).json()["items"]
    assert (again[0]["id"], again[0]["replayed"]) == (batch[0]["id"], True)


def test_a_job_of_a_caller_s_transaction_calls_back(api: Api, database: Database):
    webhook, foreign = UUID(made(api)["id"]), UUID(api.post("/v1/webhooks", WISH, "foreign").json()["id"])
    with psycopg.connect(database.url) as connection:
        usual: dict[str, Any] = {"tenant": api.slug, "handlers": HANDLERS}
        job = producers.submit(connection, Note(text="hello"), callback=webhook, key="k", **usual)
        unique = producers.submit(connection, Note(text="hello"), callback=webhook, unique=Unique("u"), **usual)
        for wrong in (foreign, uuid7()):
            with pytest.raises(producers.InvalidSubmission, match=f"/callback: there is no webhook {wrong}"):
                producers.submit(connection, Note(text="hello"), callback=wrong, **usual)

    assert called_back(database, api) == {(str(job), str(webhook)), (str(unique), str(webhook))}
    over_http = api.submit({**NOTE, "callback": str(webhook)}, "k")
    assert over_http.json()["id"] == str(job)


def called_back(database: Database, api: Api) -> set[tuple[str, str]]:
    query = "select job_id, webhook_id from haulier.callbacks where tenant_id = (select id from haulier.tenants where slug = %s)"
    with database.plumbing() as tx:
        return {(str(job), str(webhook)) for job, webhook in tx.execute(query, (api.slug,))}


def test_deliveries_are_paged_filtered_and_sent_again(api: Api, database: Database, worker: Worker):
    new = made(api)
    path = f"/v1/webhooks/{new['id']}"
    jobs = [api.accepted() for _ in range(3)]
    for job in jobs:
        worker.complete(worker.begin(job), "{}")
    tell(database)
    first = api.get(f"{path}/deliveries?limit=2").json()
    rest = api.get(f"{path}/deliveries?limit=2&cursor={first['next_cursor']}").json()
    assert [each["job_id"] for each in first["items"] + rest["items"]] == jobs[::-1]
    assert rest["next_cursor"] is None
    settled = first["items"][0]["id"]
    with database.plumbing() as tx:
        tx.execute("update haulier.webhook_deliveries set state = 'rejected', reason = 'gone' where id = %s", (settled,))
        before = deliveries.find(tx, tenant_of(database, api), UUID(new["id"]), UUID(settled))
    assert [each["id"] for each in api.get(f"{path}/deliveries?state=rejected").json()["items"]] == [settled]

    again = api.post(f"{path}/deliveries/{settled}/redeliver", role="admin")
    ranged = api.post(f"{path}/redeliver", {"since": "2026-01-01T00:00:00Z"}, "admin")

    assert (again.status_code, again.json()["state"], again.json()["id"]) == (202, "pending", settled)
    assert (ranged.status_code, ranged.json()) == (202, {"redelivered": 0, "next_since": None})
    with database.plumbing() as tx:
        after = deliveries.find(tx, tenant_of(database, api), UUID(new["id"]), UUID(settled))
    assert before is not None
    assert after is not None
    assert before.job_id != after.job_id
    for job in (before.job_id, after.job_id):  # the first one waits no longer
        assert api.get(f"/v1/jobs/{job}").json()["state"] == ("cancelled" if job == before.job_id else "queued")
    assert api.post(f"/v1/jobs/{after.job_id}/cancel").status_code == 200
    once_more = api.post(f"{path}/redeliver", {"since": "2026-01-01T00:00:00Z", "states": ["cancelled"]}, "admin")
    assert once_more.json() == {"redelivered": 1, "next_since": None}


def test_a_stretch_of_time_is_sent_again_to_its_end_however_many_messages_one_moment_has(
    api: Api, database: Database, worker: Worker, monkeypatch: pytest.MonkeyPatch
):
    """The dispatcher writes a thousand in one statement. Receivers are quick: what was sent again is delivered before the next call."""
    monkeypatch.setattr("producers.intake.webhooks.MOST_AGAIN", 2)
    path = f"/v1/webhooks/{made(api)['id']}"
    for number in (3, 1):
        for _ in range(number):
            worker.complete(worker.begin(api.accepted()), "{}")
        tell(database)
    times, since = 0, "2026-01-01T00:00:00Z"
    sent: list[int] = []

    while since is not None and times < 9:
        with database.plumbing() as tx:
            tx.execute("update haulier.webhook_deliveries set state = 'delivered' where tenant_id = %s", (tenant_of(database, api),))
        answer = api.post(f"{path}/redeliver", {"since": since, "states": ["delivered"]}, "admin").json()
        times, since = times + 1, answer["next_since"]
        sent.append(answer["redelivered"])

    assert sent == [3, 1]


def tenant_of(database: Database, api: Api) -> int:
    with database.plumbing() as tx:
        row = tx.execute("select id from haulier.tenants where slug = %s", (api.slug,)).fetchone()
    assert row is not None
    return row[0]


def test_the_document_says_what_receivers_are_sent(api: Api):
    sent = api.document["webhooks"]

    assert set(sent) == {"job.succeeded", "job.rejected", "job.dead", "job.cancelled", "family.ended", "webhook.test"}
    for operation in sent.values():
        reference = operation["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert reference.rpartition("/")[2] in api.document["components"]["schemas"]
    assert "whsec_" not in str(api.document).replace("whsec_…", "")
