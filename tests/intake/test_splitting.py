"""Bodies in pieces: the same items come out wherever they are cut."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.intake.splitting import Array, BrokenError, Item, Lines

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
spaces = st.text(" \t\r\n", max_size=3)


def split(splitter: Array | Lines, pieces: Iterable[bytes]) -> list[Item]:
    items = [item for piece in pieces for item in splitter.feed(piece)]
    return items + list(splitter.close())


def cut(body: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(body) + 1) for place in places})
    return [body[start:end] for start, end in zip([0, *ends], [*ends, len(body)], strict=True)]


@settings(max_examples=300, deadline=None)
@given(st.lists(values, max_size=6), spaces, st.booleans(), st.lists(st.integers(0, 10_000), max_size=8))
def test_an_array_is_split_as_json_reads_it(items: list[Any], space: str, escaped: bool, places: list[int]):
    texts = [json.dumps(item, ensure_ascii=escaped) for item in items]
    body = f"{space}[{space}{f'{space},{space}'.join(texts)}{space}]{space}".encode(errors="surrogatepass")

    found = split(Array(1 << 20), cut(body, places))

    assert [item.decode(errors="surrogatepass") for item in found if item is not None] == texts
    assert split(Array(1 << 20), [body[n : n + 1] for n in range(len(body))]) == found


@settings(max_examples=200, deadline=None)
@given(
    st.lists(values, max_size=6),
    st.sampled_from(["\n", "\r\n", "\n\n", "\r\n \r\n"]),
    st.booleans(),
    st.lists(st.integers(0, 10_000), max_size=8),
)
def test_lines_are_split_as_they_stand(items: list[Any], end: str, ended: bool, places: list[int]):
    texts = [json.dumps(item) for item in items]
    body = (end.join(texts) + (end if ended else "")).encode()

    found = split(Lines(1 << 20), cut(body, places))

    assert [item.decode() for item in found if item is not None] == texts


@settings(max_examples=300, deadline=None)
@given(st.text('[]{},:" \\\n1a').map(str.encode) | st.binary(max_size=30), st.lists(st.integers(0, 100), max_size=5))
def test_what_is_no_array_breaks_or_gives_the_same_items_wherever_it_is_cut(body: bytes, places: list[int]):
    def outcome(pieces: list[bytes]) -> tuple[list[Item], str | None]:
        splitter, items = Array(1 << 20), list[Item]()
        try:
            for piece in pieces:
                for item in splitter.feed(piece):
                    items.append(item)
            items += splitter.close()
        except BrokenError as error:
            return items, error.kind
        return items, None

    whole = outcome([body])

    assert outcome(cut(body, places)) == whole
    try:
        value = json.loads(body)
    except ValueError:
        return
    if isinstance(value, list):
        assert whole[1] is None
        assert [json.loads(item) for item in whole[0] if item is not None] == value


@pytest.mark.parametrize("step", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("fill", ["x", '\\"', "[{", ",", "é", "\\\\"])
def test_an_item_over_the_limit_is_none_and_its_neighbours_come(step: int, fill: str):
    giant = json.dumps({"a": [fill * 400]})
    array = f'[1,{giant},{{"b":2}}]'.encode()
    lines = f'1\n{giant}\n{{"b":2}}'.encode()

    in_array = split(Array(200), [array[n : n + step] for n in range(0, len(array), step)])
    in_lines = split(Lines(200), [lines[n : n + step] for n in range(0, len(lines), step)])

    assert in_array == in_lines == [b"1", None, b'{"b":2}']


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "malformed-json"), (b"  ", "malformed-json"), (b"[", "malformed-json"), (b"[1", "malformed-json"), (b"[1,", "malformed-json"),
        (b"[1,]", "malformed-json"), (b"[,1]", "malformed-json"), (b"[1,,2]", "malformed-json"), (b"[1}", "malformed-json"),
        (b"[]]", "malformed-json"), (b"[] x", "malformed-json"), (b"[1][2]", "malformed-json"), (b'["a]', "malformed-json"),
        (b"\xef\xbb\xbf[1]", "malformed-json"), (b"x", "malformed-json"), (b"{}", "invalid"), (b'"a"', "invalid"), (b"null", "invalid"),
    ],
)  # fmt: skip
def test_a_body_that_is_no_array_says_so(body: bytes, kind: str):
    with pytest.raises(BrokenError) as error:
        split(Array(100), [body])

    assert error.value.kind == kind


def test_each_byte_is_looked_at_once_however_small_the_pieces():
    """A string of a megabyte, byte by byte: were it searched again with each, this would take hours."""
    text = b'["' + b"x\\n" * 300_000 + b'"]'

    assert len(split(Array(2 << 20), (text[n : n + 1] for n in range(len(text))))[0] or b"") == 900_002


def test_the_longest_string_is_stepped_over_without_keeping_it():
    random.seed(1)
    array = Array(1000)
    pieces = [b'[1,"', *(bytes(random.choices(b"abc[]{},", k=65_536)) for _ in range(50)), b'",2]']

    held = 0
    items: list[Item] = []
    for piece in pieces:
        items += array.feed(piece)
        held = max(held, len(array._buffer))

    assert items == [b"1", None, b"2"]
    assert held <= 1000 + 65_536
