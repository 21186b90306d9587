"""What a message's body may be, and what is refused."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import dramatiq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.ids import uuid7
from config.transport.message import MAX_ATTEMPT, MAX_BYTES, MAX_JOBS, Announcement, Message, Undecodable, decode, encode

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
announcements = st.builds(
    Announcement, st.uuids(), st.integers(1, MAX_ATTEMPT), st.none() | st.text(st.characters(codec="utf-8"), max_size=128)
)
jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def whole() -> dict[str, Any]:
    return json.loads(encode(Message("orders", (Announcement(uuid7(), 1, None),))))


@given(st.lists(announcements, min_size=1, max_size=20, unique_by=lambda job: job.job_id))
def test_a_message_reads_back_as_it_was_written(jobs: list[Announcement]) -> None:
    message = Message("orders", tuple(jobs))

    assert decode(encode(message), "orders") == message


def test_dramatiq_itself_reads_our_messages() -> None:
    job = uuid7()

    message = dramatiq.Message.decode(encode(Message("orders", (Announcement(job, 3, TRACEPARENT),))))

    assert (message.queue_name, message.actor_name, message.args) == ("orders", "orders", ([str(job), 3, TRACEPARENT],))


def test_the_most_jobs_with_a_trace_each_fit_in_a_message() -> None:
    message = Message("orders", tuple(Announcement(uuid7(), MAX_ATTEMPT, TRACEPARENT) for _ in range(MAX_JOBS)))

    body = encode(message)

    assert len(body) <= MAX_BYTES
    assert decode(body, "orders") == message


@pytest.mark.parametrize("count", [0, MAX_JOBS + 1])
def test_a_message_of_no_job_or_too_many_is_not_made(count: int) -> None:
    with pytest.raises(ValueError, match=f"a message names 1 to 500 jobs, got {count}"):
        encode(Message("orders", tuple(Announcement(uuid7(), 1, None) for _ in range(count))))


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_undecodable(body: bytes) -> None:
    with pytest.raises(Undecodable):
        decode(body, "orders")


@given(st.sampled_from(sorted(whole())), jsons)
def test_no_value_in_any_field_raises_anything_but_undecodable(field: str, value: Any) -> None:
    body = json.dumps(whole() | {field: value}).encode()

    try:
        message = decode(body, "orders")
    except Undecodable:
        return
    assert message.queue == "orders"


@given(jsons | st.tuples(jsons, jsons, jsons))
def test_no_entry_raises_anything_but_undecodable(entry: Any) -> None:
    body = json.dumps(whole() | {"args": [entry]}).encode()

    with pytest.raises(Undecodable):
        decode(body, "orders")


JOB = str(UUID(int=7))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"options": None}, "options must be of type dict, got NoneType"),
        ({"kwargs": []}, "kwargs must be of type dict, got list"),
        ({"args": {}}, "args must be of type list, got dict"),
        ({"args": []}, "args must name 1 to 500 jobs, got 0"),
        ({"args": [[JOB, 1, None]] * 501}, "args must name 1 to 500 jobs, got 501"),
        ({"args": [[JOB, 1, None], [JOB, 1, None]]}, "args name a job twice"),
        ({"args": [[JOB.replace("-", ""), 1, None]]}, "expected .job id, attempt"),
        ({"args": [[JOB + "\n", 1, None]]}, "expected .job id, attempt"),
        ({"args": [[JOB, True, None]]}, "expected .job id, attempt"),
        ({"args": [[JOB, 0, None]]}, "expected .job id, attempt"),
        ({"args": [[JOB, 2**31, None]]}, "expected .job id, attempt"),
        ({"args": [[JOB, 1.0, None]]}, "expected .job id, attempt"),
        ({"args": [[JOB, 1, 7]]}, "expected .job id, attempt"),
        ({"args": [[JOB, 1, "x" * 129]]}, "expected .job id, attempt"),
        ({"args": [[JOB, 1]]}, "expected .job id, attempt"),
        ({"queue_name": "bulk"}, "queue_name must be 'orders', got 'bulk'"),
        ({"actor_name": "bulk"}, "actor_name must be 'orders', got 'bulk'"),
        ({"message_id": None}, "message_id must be of type str"),
        ({"payload": {}}, "missing or too many: .'payload'."),
    ],
)
def test_what_is_not_exactly_right_is_refused_with_a_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(Undecodable, match=reason):
        decode(json.dumps(whole() | change).encode(), "orders")


@pytest.mark.parametrize(
    "body", [b"[" * 60_000, b'{"a":' * 10_000, b"[" * 1_020 + b"]" * 1_020, b" " * 65_537, b"\x80\x04N.", b"null", b"\xff"]
)
def test_a_hostile_body_is_refused(body: bytes) -> None:
    with pytest.raises(Undecodable):
        decode(body, "orders")


def test_nesting_too_deep_to_print_is_refused() -> None:
    deep = "[" * 1_000 + "]" * 1_000
    body = json.dumps(whole() | {"args": ["DEEP"]}).replace('"DEEP"', deep).encode()

    with pytest.raises(Undecodable):
        decode(body, "orders")
