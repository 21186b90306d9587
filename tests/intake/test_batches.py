"""`POST /v1/jobs/batch` and `GET /v1/batches/{id}`."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psycopg
import pytest

from ledger import batches
from ledger.connection import Database
from producers.intake import receiving
from producers.intake.sets import QUICK, SetWriter
from producers.intake.views import AtomicBatchView, BatchAnswerView, BatchView
from tests.intake.conftest import NOTE, Api, Worker, archive_all, count, eventually, running_intake
from tests.intake.test_limits import limited
from tests.intake.test_strict_json import BEGIN, END, REFUSED

JSON, LINES = "application/json", "application/x-ndjson"


def note(text: object, **fields: Any) -> dict[str, Any]:
    return {"command": "tests.note", "payload": {"text": str(text)}, **fields}


def encode(items: list[Any], media_type: str = JSON) -> bytes:
    return json.dumps(items).encode() if media_type == JSON else b"".join(json.dumps(item).encode() + b"\r\n\n" for item in items)


def send(api: Api, body: Any, key: str | None = None, query: str = "", media_type: str = JSON, role: str = "submitter") -> httpx2.Response:
    content = encode(body, media_type) if isinstance(body, list) else body
    headers = {"content-type": media_type} | ({"idempotency-key": key} if key else {})
    answer = api.post(f"/v1/jobs/batch{query}", None, role, content=content, headers=headers)
    if answer.status_code == 207:
        BatchAnswerView.model_validate(answer.json())
    return answer


def ids(answer: httpx2.Response) -> list[str | None]:
    return [item.get("id") for item in answer.json()["items"]]


def standing(api: Api, batch_id: str) -> BatchView:
    return BatchView.model_validate(api.get(f"/v1/batches/{batch_id}").json())


@pytest.mark.parametrize("media_type", [JSON, LINES])
def test_each_item_has_its_answer_in_order(api: Api, database: Database, media_type: str):
    items: list[Any] = [
        note("a", labels={"n": "0"}),
        {"command": "tests.ntoe", "payload": {}},
        note("b", priority=101),
        note("c", delay=60),
        7,
    ]

    answer = send(api, items, media_type=media_type)

    assert answer.status_code == 207
    shown = answer.json()
    assert [item["status"] for item in shown["items"]] == [202, 422, 422, 202, 422]
    assert shown["items"][1]["problem"]["type"] == "/problems/unknown-command"
    assert shown["items"][1]["problem"]["nearest"] == "tests.note"
    assert shown["items"][2]["problem"]["errors"][0]["pointer"] == "/priority"
    assert api.get(f"/v1/jobs/{shown['items'][0]['id']}").json()["labels"] == {"n": "0"}
    assert api.get(f"/v1/jobs/{shown['items'][3]['id']}").json()["state"] == "scheduled"
    assert "problem" not in shown
    assert count(database, api) == count(database, api, "outbox") == 2


def test_a_batch_shows_how_it_stands(api: Api, worker: Worker, database: Database):
    answer = send(api, [note("a"), note("b"), note("c", delay=60), {}])
    batch_id = answer.json()["batch_id"]

    before = standing(api, batch_id)
    worker.complete(worker.begin(ids(answer)[0] or ""), "null")
    after = standing(api, batch_id)
    api.post(f"/v1/jobs/{ids(answer)[1]}/cancel")
    api.post(f"/v1/jobs/{ids(answer)[2]}/cancel")
    archive_all(database)
    ended = standing(api, batch_id)

    assert answer.headers["location"] == f"/v1/batches/{batch_id}"
    assert (before.state, before.items, before.accepted, before.refused) == ("active", 4, 3, 1)
    assert before.counts == {"queued": 2, "scheduled": 1}
    assert after.counts == {"queued": 1, "scheduled": 1, "succeeded": 1}
    assert (ended.state, ended.counts) == ("ended", {"succeeded": 1, "cancelled": 2})
    assert api.get(f"/v1/batches/{batch_id}", "foreign").status_code == 404
    assert api.get(f"/v1/batches/{batch_id}?tenant={api.slug}", "platform").status_code == 200
    assert api.get(f"/v1/batches/{batch_id}?tenant=*", "platform").status_code == 200


def test_batches_go_with_their_retention(api: Api, database: Database):
    batch_id = send(api, [NOTE]).json()["batch_id"]

    with database.plumbing() as tx:
        batches.forget(tx, timedelta(days=1))
        kept = api.get(f"/v1/batches/{batch_id}").status_code
        tx.execute("update haulier.batches set created_at = now() - interval '32 days' where id = %s", (batch_id,))
        batches.forget(tx, timedelta(days=31))

    assert (kept, api.get(f"/v1/batches/{batch_id}").status_code) == (200, 404)
    assert count(database, api, "batch_sets") == 0
    assert count(database, api) == 1


@pytest.mark.parametrize("media_type", [JSON, LINES])
def test_ten_thousand_items_are_accepted_and_one_more_is_refused(api: Api, database: Database, media_type: str):
    items = [note(n) for n in range(10_000)]

    answer = send(api, items, media_type=media_type)
    more = send(api, [*items, NOTE], "more", media_type=media_type)

    assert answer.status_code == 207
    assert len({job for job in ids(answer) if job}) == 10_000
    assert standing(api, answer.json()["batch_id"]).counts == {"queued": 10_000}
    assert (more.status_code, len(more.json()["items"]), more.json()["problem"]["status"]) == (207, 10_000, 413)
    assert count(database, api) == 20_000


def test_keys_of_items_are_those_of_single_submissions(api: Api, database: Database):
    single = api.submit(NOTE, "k0").json()["id"]

    answer = send(
        api,
        [
            {**NOTE, "idempotency_key": "k0"},
            note("b", idempotency_key="k1"),
            note("c", idempotency_key="k1"),
            note("b", idempotency_key="k1"),
        ],
    )

    first, second, third, fourth = answer.json()["items"]
    assert first == {"status": 202, "id": single, "replayed": True}
    assert second["status"] == 202
    assert (third["status"], third["problem"]["type"]) == (422, "/problems/key-reused")
    assert fourth == {"status": 202, "id": second["id"], "replayed": True}
    assert api.submit(note("b"), "k1").json()["id"] == second["id"]
    assert standing(api, answer.json()["batch_id"]).accepted == 3
    assert count(database, api) == 2


@pytest.mark.parametrize("key", ["", "é", "k" * 256, 7, "a\nb"])
def test_a_malformed_key_of_an_item_is_that_item_s_422(api: Api, key: object):
    answer = send(api, [note("a", idempotency_key=key), NOTE])

    assert [item["status"] for item in answer.json()["items"]] == [422, 202]
    assert answer.json()["items"][0]["problem"]["errors"][0]["pointer"] == "/idempotency_key"


@pytest.mark.parametrize("query", ["", "?atomic=true"])
def test_a_repeat_with_its_key_is_the_same_batch_and_the_same_jobs(api: Api, database: Database, query: str):
    items = [note(n) for n in range(1200)]

    first, again = (send(api, items, "b", query) for _ in range(2))
    reordered = send(api, json.dumps([dict(reversed(item.items())) for item in items], indent=1).encode(), "b", query)

    assert first.status_code == again.status_code == reordered.status_code
    assert first.json()["batch_id"] == again.json()["batch_id"] == reordered.json()["batch_id"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    if query:
        assert first.json() == again.json() == reordered.json()
    else:
        assert ids(first) == ids(again) == ids(reordered)
        assert {item["replayed"] for item in again.json()["items"]} == {True}
    assert count(database, api) == 1200


@pytest.mark.parametrize("change", ["other", "fewer", "more", "key", "atomic"])
def test_another_body_under_its_key_is_a_422_and_adds_nothing(api: Api, database: Database, change: str):
    items = [note(n) for n in range(700)]
    send(api, items, "b")

    other = {
        "other": [*items[:-1], note("x")],
        "fewer": items[:600],
        "more": [*items, note("x")],
        "key": [*items[:-1], {**items[-1], "idempotency_key": "k"}],
        "atomic": items,
    }[change]
    answer = send(api, other, "b", "?atomic=true" if change == "atomic" else "")

    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/key-reused")
    assert count(database, api) == 700


def test_a_batch_s_key_is_the_tenant_s_own_and_no_single_submission_s(api: Api):
    mine, theirs = send(api, [NOTE], "k"), send(api, [NOTE], "k", role="foreign")

    assert mine.json()["batch_id"] != theirs.json()["batch_id"]
    assert "idempotency-replayed" not in api.submit(key="k").headers


def test_what_was_refused_burns_no_key_and_may_be_mended_elsewhere(api: Api, worker: Worker, database: Database):
    unique = {"unique": {"key": "u", "on_conflict": "reject"}}
    holder = api.submit({**NOTE, **unique}).json()["id"]
    items = [note("a", **unique), note("b"), {"command": "tests.note", "payload": {}}]

    first = send(api, items, "b")
    worker.complete(worker.begin(holder), "null")
    again = send(api, items, "b")

    assert [item["status"] for item in first.json()["items"]] == [409, 202, 422]
    assert first.json()["items"][0]["problem"]["job_id"] == holder
    assert [item["status"] for item in again.json()["items"]] == [202, 202, 422]
    assert ids(again)[1] == ids(first)[1]
    assert standing(api, again.json()["batch_id"]).accepted == 2
    assert count(database, api) == 3


def test_unique_holds_among_the_items_of_a_batch(api: Api, database: Database):
    items = [note(n, unique={"key": f"u{n % 3}", "on_conflict": "replace" if n < 6 else "return"}) for n in range(9)]

    answer = send(api, items)

    jobs = ids(answer)
    assert jobs[6:] == jobs[3:6]
    assert [item.get("held") for item in answer.json()["items"]] == [None] * 6 + [True] * 3
    assert standing(api, answer.json()["batch_id"]).counts == {"cancelled": 3, "queued": 3}


def test_atomic_is_all(api: Api, database: Database):
    answer = send(api, [note(n) for n in range(1100)], query="?atomic=true")

    assert answer.status_code == 202
    assert len(set(AtomicBatchView.model_validate(answer.json()).ids)) == 1100
    assert standing(api, answer.json()["batch_id"]).counts == {"queued": 1100}


@pytest.mark.parametrize("bad", ["schema", "key", "unique", "broken", "many", "command"])
def test_atomic_is_none_if_the_last_item_is_refused(api: Api, database: Database, bad: str):
    api.submit(note("x", unique={"key": "u"}), key="k")
    last = {
        "schema": {"command": "tests.note", "payload": {"text": 1}},
        "key": note("y", idempotency_key="k"),
        "unique": note("y", unique={"key": "u", "on_conflict": "reject"}),
        "command": {"command": "no.such", "payload": {}},
    }
    items = [note(n, idempotency_key=f"i{n}") for n in range(10_000 if bad == "many" else 1100)]
    body = encode(items)[:-1] + (b', {"x"}]' if bad == "broken" else b"," + json.dumps(last.get(bad, NOTE)).encode() + b"]")

    answer = send(api, body, query="?atomic=true")

    assert (answer.status_code, answer.json()["type"]) == {
        "broken": (400, "/problems/malformed-json"),
        "many": (413, "/problems/too-large"),
    }.get(bad, (422, "/problems/invalid"))
    pointers = [error["pointer"] for error in answer.json().get("errors", [])]
    expected = {"schema": ["/1100/payload/text"], "key": ["/1100"], "unique": ["/1100/unique"], "command": ["/1100/command"]}
    assert pointers == expected.get(bad, [])
    assert count(database, api) == 1
    assert count(database, api, "batches") == count(database, api, "batch_sets") == 0
    assert count(database, api, "idempotency_keys") == 1


@pytest.mark.parametrize("name", [name for name, (fragment, _) in REFUSED.items() if b"\n" not in fragment])
def test_an_item_that_cannot_be_kept_is_a_4xx_of_its_own_in_lines(api: Api, database: Database, name: str):
    fragment, status = REFUSED[name]
    bad = BEGIN + fragment + END

    answer = send(api, encode([NOTE], LINES) + bad + b"\n" + encode([NOTE], LINES), media_type=LINES)

    assert [item["status"] for item in answer.json()["items"]] == [202, status, 202]
    assert count(database, api) == 2


@pytest.mark.parametrize("name", REFUSED)
def test_in_an_array_it_is_a_4xx_of_its_own_or_the_end(api: Api, database: Database, name: str):
    fragment, status = REFUSED[name]

    answer = send(api, b"[" + json.dumps(NOTE).encode() + b"," + BEGIN + fragment + END + b"," + json.dumps(NOTE).encode() + b"]")

    shown = answer.json()
    assert answer.status_code == 207
    if "problem" in shown:
        assert ([item["status"] for item in shown["items"]], shown["problem"]["status"]) == ([202], status)
        assert "Items 0 to 0 are answered for" in shown["problem"]["detail"]
    else:
        assert [item["status"] for item in shown["items"]] == [202, status, 202]
    assert count(database, api) == len([item for item in shown["items"] if item["status"] == 202])


@pytest.mark.parametrize("media_type", [JSON, LINES])
def test_a_giant_item_is_refused_and_its_neighbours_are_not(api: Api, media_type: str):
    answer = send(api, [NOTE, note("x" * (1 << 20)), NOTE], media_type=media_type)

    assert [item["status"] for item in answer.json()["items"]] == [202, 413, 202]


@pytest.mark.parametrize(
    ("body", "media_type", "status", "kind"),
    [
        (b"", JSON, 400, "malformed-json"), (b"[]", JSON, 422, "invalid"), (b" \n\r\n", LINES, 422, "invalid"), (b"", LINES, 422, "invalid"),
        (b"{}", JSON, 422, "invalid"), (b"[{]", JSON, 400, "malformed-json"), (b"[" * 100_000, JSON, 400, "malformed-json"),
        (b"[" * 40 + b"]" * 40, JSON, 207, None), (b"[{}", JSON, 400, "malformed-json"), (b"{", LINES, 207, None),
        (b"[]", "text/plain", 415, "unsupported-media-type"), (b"[]", "", 415, "unsupported-media-type"),
    ],
)  # fmt: skip
def test_a_body_that_is_no_batch_is_a_clear_answer_and_nothing_is_accepted(
    api: Api, database: Database, body: bytes, media_type: str, status: int, kind: str | None
):
    answer = send(api, body, media_type=media_type)

    assert answer.status_code == status, answer.text
    if kind:
        assert answer.json()["type"] == f"/problems/{kind}"
    assert count(database, api) == 0


def test_a_compressed_body_another_method_and_another_role_are_refused(api: Api):
    zipped = api.post("/v1/jobs/batch", content=b"[]", headers={"content-type": JSON, "content-encoding": "gzip"})
    other = api.call("GET", "/v1/jobs/batch")
    viewer = send(api, [NOTE], role="viewer")
    unknown = send(api, [NOTE], query="?validate_only=true")
    flag = send(api, [NOTE], query="?atomic=1")
    waited = api.post("/v1/jobs/batch", [NOTE], headers={"prefer": "wait=20"})

    assert zipped.status_code == 415
    assert (other.status_code, other.headers["allow"]) == (405, "POST")
    assert [each.status_code for each in (viewer, unknown, flag)] == [403, 400, 400]
    assert (waited.status_code, "preference-applied" in waited.headers) == (207, False)


class Wire:
    """A client that sends what it is told, when it is told."""

    def __init__(self, api: Api, length: int | None, key: str | None = None, query: str = "") -> None:
        parts = urlsplit(api.url)
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20)
        framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
        named = f"idempotency-key: {key}\r\n" if key else ""
        self._chunked = length is None
        self._socket.sendall(
            f"POST /v1/jobs/batch{query} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {api.keys['submitter']}\r\n"
            f"content-type: application/json\r\n{named}{framing}\r\n\r\n".encode()
        )

    def send(self, body: bytes) -> None:
        self._socket.sendall(b"%x\r\n%b\r\n" % (len(body), body) if self._chunked else body)

    def cut(self) -> None:
        self._socket.close()

    def answer(self) -> bytes:
        found = b""
        while b"\r\n\r\n" not in found:
            piece = self._socket.recv(65_536)
            assert piece, found
            found += piece
        return found


ITEMS = [note(f"é{n} [{{\\", labels={"n": str(n)}) for n in range(1300)]
BODY = json.dumps(ITEMS, ensure_ascii=False).encode()


def place_of(text: bytes, nth: int = 1) -> int:
    at = -1
    for _ in range(nth):
        at = BODY.index(text, at + 1)
    return at


#: Where a body may be cut: by what the next byte is, and where among the sets.
CUTS = {
    "before all": 0, "after the bracket": 1, "in the first item": 20, "within a name": 4, "in a character": place_of("é".encode(), 3) + 1,
    "in an escape": place_of(b"\\\\", 5) + 1, "between items": place_of(b"}, {", 7) + 1, "at a comma": place_of(b"}, {", 8) + 2,
    "at the end of a set": place_of(b'"500"') - 30, "after a set": place_of(b'"501"'), "after two sets": place_of(b'"1001"') + 60,
    "before the last bracket": len(BODY) - 1,
}  # fmt: skip


@pytest.mark.parametrize("name", CUTS)
def test_a_connection_cut_in_the_middle_is_repeated_safely(api: Api, database: Database, name: str):
    wire = Wire(api, len(BODY), name)
    wire.send(BODY[: CUTS[name]])
    if CUTS[name] > place_of(b'"501"'):
        eventually(lambda: count(database, api) >= 500)
    wire.cut()

    answer = send(api, BODY, name)
    settled = count(database, api)
    again = send(api, BODY, name)

    assert [item["status"] for item in answer.json()["items"]] == [202] * 1300
    assert ids(answer) == ids(again)
    assert (settled, count(database, api)) == (1300, 1300)
    shown = [api.get(f"/v1/jobs/{job}").json()["labels"]["n"] for job in (ids(answer)[0], ids(answer)[700], ids(answer)[1299])]
    assert shown == ["0", "700", "1299"]


def test_a_body_that_breaks_at_the_end_of_a_set_is_mended_and_repeated(api: Api, database: Database):
    whole = [note(n) for n in range(501)]
    broken = encode(whole[:500])[:-1] + b', {"x"}]'

    first, mended = send(api, broken, "b"), send(api, whole, "b")

    assert (len(first.json()["items"]), first.json()["problem"]["type"]) == (500, "/problems/malformed-json")
    assert [item["status"] for item in mended.json()["items"]] == [202] * 501
    assert (ids(mended)[:500], count(database, api)) == (ids(first), 501)


def test_a_batch_that_another_request_of_its_key_has_cut_elsewhere_is_told_to_come_again(api: Api, database: Database):
    """Tighter limits make smaller sets; the request that began before they came knows nothing of that."""
    wire = Wire(api, len(BODY), "b")
    wire.send(BODY[: place_of(b'"100"')])
    eventually(lambda: api.server and api.server._parts.writers.sets.receiving)
    limited(api, {"submissions": {"rate": 5, "burst": 2000}}, database)

    other = send(api, BODY, "b")
    wire.send(BODY[place_of(b'"100"') :])
    told = wire.answer()
    wire.cut()

    assert [item["status"] for item in other.json()["items"]] == [202] * 1300
    assert told.startswith(b"HTTP/1.1 409 ")
    assert b"retry-after: 1\r\n" in told
    assert (ids(send(api, BODY, "b")), count(database, api)) == (ids(other), 1300)


def test_a_batch_that_was_cut_says_so_until_it_is_repeated(api: Api, database: Database):
    wire = Wire(api, len(BODY), "cut")
    wire.send(BODY[: CUTS["after a set"]])
    eventually(lambda: count(database, api) == 500)
    wire.cut()
    with database.plumbing() as tx:
        [[batch_id]] = tx.execute(
            "select id from haulier.batches where key = 'cut' and tenant_id = (select id from haulier.tenants where slug = %s)", (api.slug,)
        ).fetchall()

    cut = standing(api, str(batch_id))
    answer = send(api, BODY, "cut")
    whole = standing(api, str(batch_id))

    assert (cut.state, cut.items, cut.accepted) == ("receiving", None, 500)
    assert answer.json()["batch_id"] == str(batch_id)
    assert (whole.state, whole.items, whole.accepted) == ("active", 1300, 1300)
    assert sum(item.get("replayed", False) for item in answer.json()["items"]) == 500


def test_two_that_send_the_same_batch_at_once_make_it_once(api: Api, database: Database):
    with ThreadPoolExecutor(6) as hands:
        answers = list(hands.map(lambda _: send(api, BODY, "both"), range(6)))

    assert {answer.status_code for answer in answers} == {207}
    assert len({json.dumps(ids(answer)) for answer in answers}) == 1
    assert len({answer.json()["batch_id"] for answer in answers}) == 1
    assert count(database, api) == 1300


def test_without_a_key_a_repeat_submits_again(api: Api, database: Database):
    first, second = send(api, [NOTE]), send(api, [NOTE])

    assert ids(first) != ids(second)
    assert count(database, api) == 2


def test_broken_json_in_the_middle_leaves_what_came_before(api: Api, database: Database):
    at = BODY.index(b'"n": "700"')

    answer = send(api, BODY[:at] + b"!" + BODY[at:], "broken")
    mended = send(api, BODY, "broken")

    shown = answer.json()
    assert (answer.status_code, len(shown["items"]), {item["status"] for item in shown["items"]}) == (207, 700, {202})
    assert (shown["problem"]["type"], shown["problem"]["status"]) == ("/problems/malformed-json", 400)
    assert "item 700" in shown["problem"]["detail"]
    assert ids(mended)[:700] == ids(answer)
    assert count(database, api) == 1300


def test_a_body_over_the_limit_is_refused_at_once_or_where_it_passes_it(database: Database, api: Api):
    with running_intake(database, max_batch_bytes=80_000) as small:
        small.keys, small.slug = api.keys, api.slug
        announced = send(small, BODY)
        told = count(database, api)

        def pieces() -> Iterator[bytes]:
            yield BODY[:70_000]
            eventually(lambda: count(database, api) > 0)
            yield BODY[70_000:]

        chunked = small.post("/v1/jobs/batch", content=pieces(), headers={"content-type": JSON})

    assert (announced.status_code, told) == (413, 0)
    assert (chunked.status_code, chunked.json()["problem"]["status"]) == (207, 413)
    assert len(chunked.json()["items"]) == count(database, api) > 0


def test_a_body_that_comes_too_slowly_is_given_up_and_what_came_stands(database: Database, api: Api, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(receiving, "LEAST_RATE", 1 << 30)
    with running_intake(database, request_deadline=0.5) as strict:
        strict.keys, strict.slug = api.keys, api.slug
        nothing = Wire(strict, None)
        some = Wire(strict, None)
        some.send(BODY[:1000])

        assert b" 408 " in nothing.answer()
        assert b" 207 " in some.answer()
        nothing.cut()
        some.cut()
    assert count(database, api) > 0


def test_a_body_that_comes_slower_than_a_single_one_may_is_waited_for(database: Database, api: Api, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(receiving, "LEAST_RATE", 100)
    with running_intake(database, request_deadline=0.3) as patient:
        patient.keys, patient.slug = api.keys, api.slug
        wire = Wire(patient, None)
        wire.send(b"[" + json.dumps(NOTE).encode())
        with pytest.raises(TimeoutError):
            wire._socket.settimeout(0.7)
            wire.answer()
        wire.send(b"]")
        wire.send(b"")

        assert b" 207 " in wire.answer()
        wire.cut()


def test_singles_go_on_while_batches_are_written_and_a_key_of_an_item_is_held(api: Api, database: Database):
    with psycopg.connect(database.url) as other, ThreadPoolExecutor(2) as hands:
        other.execute(
            "insert into haulier.idempotency_keys (tenant_id, key, job_id, fingerprint)"
            " select id, 'held', gen_random_uuid(), '' from haulier.tenants where slug = %s",
            (api.slug,),
        )
        waiting = hands.submit(send, api, [note("a", idempotency_key="held"), NOTE])
        free = hands.submit(send, api, [NOTE])
        assert free.result(5).status_code == 207
        assert api.submit().status_code == 202
        assert not waiting.done()
        other.rollback()

        assert [item["status"] for item in waiting.result(10).json()["items"]] == [202, 202]


def test_threads_take_turns_as_usual_again_when_no_intake_of_the_process_receives_a_batch(database: Database):
    usual = sys.getswitchinterval()
    one, other = contextlib.ExitStack(), contextlib.ExitStack()

    one.enter_context(SetWriter(database, 1).receive())
    other.enter_context(SetWriter(database, 1).receive())
    with contextlib.suppress(ConnectionError), one:
        raise ConnectionError
    still = sys.getswitchinterval()
    other.close()

    assert (still, sys.getswitchinterval()) == (pytest.approx(QUICK, rel=0.1), usual)
