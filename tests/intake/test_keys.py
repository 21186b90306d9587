"""Keys that are rotated, watched and found where they should not be."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import UUID

import pytest
import structlog.testing
from prometheus_client import REGISTRY

from ledger import keys
from ledger.connection import Database
from producers.intake.auth import Keyring
from producers.intake.views import Keys, NewKeyView
from tests.intake.conftest import PAY, Api, eventually, running_intake


def prefix_of(api: Api, role: str) -> str:
    return api.keys[role].split("_")[1]


def rotate(api: Api, role: str, by: str = "admin", **wish: Any) -> NewKeyView:
    answer = api.post(f"/v1/keys/{prefix_of(api, role)}/rotate", wish, by)
    assert answer.status_code == 201, answer.text
    return NewKeyView.model_validate(answer.json())


def test_a_rotated_key_and_its_successor_are_both_good_for_the_overlap(api: Api):
    made = rotate(api, "submitter")
    api.keys["new"] = made.key

    old = next(key for key in Keys.model_validate(api.get("/v1/keys", "admin").json()).items if key.prefix == prefix_of(api, "submitter"))

    assert (made.role, made.name, made.payloads, made.tenant) == ("submitter", "submitter", False, api.slug)
    assert (api.submit(role="submitter").status_code, api.submit(role="new").status_code) == (202, 202)
    assert old.expires_at is not None
    assert 3590 < old.expires_at.timestamp() - time.time() < 3610


def test_a_rotated_key_is_refused_within_five_seconds_after_its_overlap(api: Api):
    made = rotate(api, "submitter", overlap=0)

    eventually(lambda: api.submit().status_code == 401, seconds=5)

    api.keys["new"] = made.key
    assert api.submit(role="new").status_code == 202
    assert api.post(f"/v1/keys/{prefix_of(api, 'submitter')}/rotate", {}, "admin").status_code == 404


def test_a_rotation_lengthens_no_life_and_keeps_the_permission_for_payloads(api: Api, database: Database):
    with database.plumbing() as tx:
        tx.execute("update haulier.api_keys set expires_at = created_at + interval '1 day' where prefix = %s", (prefix_of(api, "seeing"),))

    made = rotate(api, "seeing", overlap=2 * 86400)

    listed = {key.prefix: key for key in Keys.model_validate(api.get("/v1/keys", "admin").json()).items}
    old = listed[prefix_of(api, "seeing")]
    assert made.payloads
    assert made.expires_at is not None
    assert old.expires_at is not None
    assert abs((old.expires_at - old.created_at).total_seconds() - 86400) < 1
    assert abs((made.expires_at - listed[made.prefix].created_at).total_seconds() - 86400) < 1


@pytest.mark.parametrize("wish", [{"overlap": -1}, {"overlap": 31 * 86400}, {"overlap": "1"}, {"more": 1}, {"reason": ""}, []])
def test_a_rotation_that_cannot_be_is_a_422(api: Api, wish: Any):
    assert api.post(f"/v1/keys/{prefix_of(api, 'viewer')}/rotate", wish, "admin").status_code == 422


def test_only_an_admin_of_the_tenant_rotates_its_keys(api: Api):
    path = f"/v1/keys/{prefix_of(api, 'viewer')}/rotate"

    assert api.post(path, {}, "operator").status_code == 403
    assert api.post(path, {}, "foreign").status_code == 404
    assert api.post(f"/v1/keys/{prefix_of(api, 'platform')}/rotate", {}, "admin").status_code == 404
    assert api.post(f"{path}?tenant={api.slug}", {}, "platform").status_code == 201


def test_a_key_s_last_use_is_written_aside_and_at_most_once_a_minute(api: Api, database: Database):
    last_used = lambda: {key["name"]: key["last_used_at"] for key in api.get("/v1/keys", "admin").json()["items"]}  # noqa: E731
    api.get("/v1/jobs", "viewer")

    eventually(lambda: last_used()["viewer"] is not None)

    with database.plumbing() as tx:
        found = keys.find_key(tx, api.keys["viewer"])
        assert found is not None
        assert found.last_used_at is not None
        keys.note_uses(tx, [(found.id, found.last_used_at.replace(year=2001))])  # another intake's, and older
        again = keys.find_key(tx, api.keys["viewer"])
    assert again == found
    assert last_used()["submitter"] is None


def test_the_ledger_is_asked_for_a_key_once_and_never_for_what_can_be_none():
    asked: list[str] = []
    ring = Keyring(asked.append, lambda _uses: None)
    mistyped = (good := keys.make_key()[0])[:-1] + ("A" if good[-1] != "A" else "B")

    found = [asyncio.run(ring.find(text)) for text in (good, good, mistyped, "hl_none", "")]

    assert found == [None] * 5
    assert asked == [good]


async def find_often(ring: Keyring, key: str) -> None:
    for _ in range(50):
        await ring.find(key)


def test_a_thousand_uses_are_one_write(api: Api, database: Database):
    written: list[UUID] = []
    with database.plumbing() as tx:
        known = keys.find_key(tx, api.keys["viewer"])
    ring = Keyring(lambda _: known, lambda uses: written.extend(key for key, _ in uses))

    for _ in range(5):
        asyncio.run(find_often(ring, api.keys["viewer"]))
        ring.note_uses()

    assert known is not None
    assert written == [known.id]


def test_each_denial_is_logged_and_counted_without_the_secret(api: Api):
    def denied(status: str) -> float:
        return REGISTRY.get_sample_value("haulier_requests_denied_total", {"status": status}) or 0

    before = denied("401"), denied("403")
    stranger, _ = keys.make_key()
    with structlog.testing.capture_logs() as logs:
        api.call("GET", "/v1/jobs", None, headers={"authorization": f"Bearer {stranger}"})
        api.call("GET", "/v1/jobs", None)
        api.post("/v1/keys", {"role": "viewer", "name": "n"}, "viewer")

    found = [line for line in logs if line["event"] == "a request was denied"]
    assert [(line["status"], line["key"], line["method"], line["path"], line["origin"]) for line in found] == [
        (401, stranger.split("_")[1], "GET", "/v1/jobs", "127.0.0.1"),
        (401, None, "GET", "/v1/jobs", "127.0.0.1"),
        (403, prefix_of(api, "viewer"), "POST", "/v1/keys", "127.0.0.1"),
    ]
    assert (denied("401"), denied("403")) == (before[0] + 2, before[1] + 1)
    for secret in (stranger, api.keys["viewer"]):
        assert secret[12:] not in str(logs)


def test_keys_are_found_in_text_by_their_pattern_and_checksum():
    real, prefix = keys.make_key()
    mistyped = real[:-1] + ("a" if real[-1] != "a" else "b")

    assert list(keys.find_in(f"KEY='{real}' again={real}; {mistyped} hl_short_x")) == [prefix, prefix]


def test_where_a_change_came_from_is_the_peer_or_what_a_trusted_proxy_says(api: Api, database: Database):
    forwarded = {"x-forwarded-for": "203.0.113.7, 198.51.100.2"}
    with running_intake(database, trusted_proxies="127.0.0.0/8,198.51.100.2") as behind:
        behind.keys, behind.slug = api.keys, api.slug
        trusted, untrusted = behind.accepted(), api.accepted()

        behind.post(f"/v1/jobs/{trusted}/cancel", headers=forwarded)
    api.post(f"/v1/jobs/{untrusted}/cancel", headers=forwarded)

    assert origin_of(database, trusted) == "203.0.113.7"
    assert origin_of(database, untrusted) == "127.0.0.1"


def origin_of(database: Database, target: str) -> str:
    with database.plumbing() as tx:
        row = tx.execute("select origin from haulier.audit where target = %s", (target,)).fetchone()
    assert row is not None
    return row[0]


def test_what_is_secret_stays_so_for_every_key_and_on_every_route(api: Api):
    job_id = api.accepted(PAY)

    shown = [api.get(f"/v1/jobs/{job_id}{part}", "seeing").text for part in ("", "/attempts", "/timeline", "/family")]
    shown.append(api.get("/v1/jobs", "seeing").text)

    assert "tok_secret" not in "".join(shown)
    assert "********" in shown[0]
