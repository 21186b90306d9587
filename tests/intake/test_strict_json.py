"""Bodies that Python accepts and Postgres refuses (trap 18), and all else that is no clear JSON: a clear 4xx, never a 500."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.connection import Database
from producers import strict_json
from tests.intake.conftest import Api, count

BEGIN = b'{"command": "tests.note", "payload": {"text": "x", "more": '
END = b"}}"

REFUSED: dict[str, tuple[bytes, int]] = {
    "NUL": (rb'"\u0000"', 400),
    "NUL in a name": (rb'{"a\u0000b": 1}', 400),
    "raw NUL": (b'"\0"', 400),
    "raw line break": (b'"a\nb"', 400),
    "high surrogate": (rb'"\ud83d"', 400),
    "low surrogate": (rb'"x\uDE00"', 400),
    "surrogate in a name": (rb'{"\ud83d": 1}', 400),
    "surrogate in UTF-8": (b'"\xed\xa0\x80"', 400),
    "not UTF-8": (b'"\xff"', 400),
    "NaN": (b"NaN", 400),
    "Infinity": (b"Infinity", 400),
    "-Infinity": (b"-Infinity", 400),
    "1e400": (b"1e400", 400),
    "-1e400": (b"-1e400", 400),
    "1e-400": (b"1e-400", 400),
    "huge exponent": (b"1e9999999999999", 400),
    "overflow by digits": (b"12345e305", 400),
    "many digits": (b"0." + b"1" * 60, 400),
    "large integer": (b"9007199254740993", 400),
    "huge integer": (b"1" * 5000, 400),
    "doubled name": (b'{"a": 1, "a": 2}', 400),
    "doubled name, escaped": (rb'{"a": 1, "\u0061": 2}', 400),
    "comment": (b"1 /* one */", 400),
    "single quotes": (b"'a'", 400),
    "trailing comma": (b"[1,]", 400),
    "leading zero": (b"01", 400),
    "deep": (b"[" * 33 + b"]" * 33, 413),
    "very deep": (b"[" * 200_000 + b"]" * 200_000, 413),
    "deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 413),
    "many values": (b"[" + b"1," * 10_000 + b"1]", 413),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_body_that_cannot_be_kept_is_a_clear_4xx(api: Api, database: Database, name: str):
    fragment, status = REFUSED[name]

    answer = api.post("/v1/jobs", content=BEGIN + fragment + END, headers={"content-type": "application/json"})

    assert answer.status_code == status, answer.text
    assert answer.json()["type"] in {"/problems/malformed-json", "/problems/too-large"}
    assert count(database, api) == 0


@pytest.mark.parametrize(
    "fragment",
    [rb'"\\u0000"', rb'"\ud83d\ude00"', b"1e308", b"-1e-308", b"5e-324", b"9007199254740992", b"[" * 29 + b"]" * 29, b"[" + b"1," * 9000 + b"1]", b'"' + b"," * 20_000 + b'"'],
    ids=["escaped backslash", "pair", "1e308", "1e-308", "5e-324", "2^53", "29 deep", "9000 values", "commas in a string"],
)  # fmt: skip
def test_a_body_at_the_limits_is_kept_and_read_back(api: Api, fragment: bytes):
    answer = api.post("/v1/jobs", content=BEGIN + fragment + END, headers={"content-type": "application/json"})

    assert answer.status_code == 202, answer.text
    assert api.get(f"/v1/jobs/{answer.json()['id']}", "seeing").json()["payload"]["more"] == json.loads(fragment)


@pytest.mark.parametrize("body", [b"", b" ", b"{", b"null", b"[]", b'"x"', b"\xef\xbb\xbf{}", b"{}{}", "{}".encode("utf-16")])
def test_a_body_that_is_no_submission_is_a_4xx(api: Api, body: bytes):
    answer = api.post("/v1/jobs", content=body, headers={"content-type": "application/json"})

    assert answer.status_code in {400, 422}


def test_a_body_over_the_limit_is_a_413_with_and_without_its_length(api: Api):
    body = json.dumps({"command": "tests.note", "payload": {"text": "x" * (1 << 20)}}).encode()
    headers = {"content-type": "application/json"}

    with_length = api.post("/v1/jobs", content=body, headers=headers)
    chunked = api.post("/v1/jobs", content=iter([body[:1000], body[1000:]]), headers=headers)

    assert (with_length.status_code, chunked.status_code) == (413, 413)


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/jsonx", "application/json; charset=latin-1", "application/x-www-form-urlencoded", "", "application/json, text/plain"]
)  # fmt: skip
def test_another_media_type_is_a_415(api: Api, media_type: str):
    answer = api.post("/v1/jobs", content=b"{}", headers={"content-type": media_type})

    assert answer.status_code == 415


def test_the_media_type_may_name_utf_8_and_nothing_may_be_compressed(api: Api):
    named = api.post(
        "/v1/jobs", content=b'{"command":"tests.note","payload":{"text":""}}', headers={"content-type": 'Application/JSON;charset="UTF-8"'}
    )
    zipped = api.post("/v1/jobs", content=b"{}", headers={"content-type": "application/json", "content-encoding": "gzip"})

    assert (named.status_code, zipped.status_code) == (202, 415)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), inner),
)  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(values, st.booleans())
def test_what_can_be_kept_is_read_as_it_is(value: Any, escaped: bool):
    body = json.dumps(value, ensure_ascii=escaped).encode()

    assert strict_json.read(body, 100) == value


@settings(max_examples=50, deadline=None)
@given(st.binary() | st.text().map(str.encode))
def test_anything_else_is_a_json_error(body: bytes):
    with contextlib.suppress(strict_json.JsonError):
        strict_json.read(body, 32)
