"""The table of the HTML standard, and what its parsing rules say besides: however the bytes arrive, the same messages come of them.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from producers.client.event_stream import Decoder, Message

STOCKS = "data: YHOO\ndata: +2\ndata: 10\n\n"
FOUR_BLOCKS = ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n"

#: A stream; its messages as (kind, data, id); the id behind which to go on.
TABLE = {
    "lines of one message": (STOCKS, [("message", "YHOO\n+2\n10", "")], ""),
    "a comment, an id, an id taken back, and no blank line": (
        FOUR_BLOCKS, [("message", "first event", "1"), ("message", "second event", "")], "",
    ),
    "a third message when its blank line is there": (
        FOUR_BLOCKS + "\n", [("message", "first event", "1"), ("message", "second event", ""), ("message", " third event", "")], "",
    ),
    "empty data is data, and the last block is unfinished": ("data\n\ndata\ndata\n\ndata:", [("message", "", ""), ("message", "\n", "")], ""),
    "one space behind the colon is none": ("data:test\n\ndata: test\n\n", [("message", "test", "")] * 2, ""),
    "kinds": (
        "event: add\ndata: 1\n\nevent: remove\ndata: 2\n\ndata: 3\n\n", [("add", "1", ""), ("remove", "2", ""), ("message", "3", "")], "",
    ),
    "a kind without data tells nothing and is forgotten": ("event: add\n\ndata: 1\n\n", [("message", "1", "")], ""),
    "an id without data tells where one is": ("id: 7\n\n", [], "7"),
    "an id keeps until the next": ("id: 7\ndata: 1\n\ndata: 2\n\n", [("message", "1", "7"), ("message", "2", "7")], "7"),
    "an id whose block was cut was not had": ("id: 7\ndata: 1\n\nid: 8\ndata: 2\n", [("message", "1", "7")], "7"),
    "an id that was cut behind its line was not had": ("id: 7\ndata: 1\n\nid: 8\r", [("message", "1", "7")], "7"),
    "an id with NULL in it is none": ("id: 7\n\nid: 8\0\ndata: 1\n\n", [("message", "1", "7")], "7"),
    "a byte order mark is skipped": ("\ufeffdata: 1\n\n", [("message", "1", "")], ""),
    "a second one, or a later one, is not": ("\ufeff\ufeffdata: 1\n\ndata: 2\n\n\ufeffdata: 3\n\n", [("message", "2", "")], ""),
    "what the standard does not name is skipped": ("more: 1\nData: 1\ndata : 1\ndata: 2\n\n", [("message", "2", "")], ""),
    "other separators are part of a line": ("data: a\u2028b\x0bc\x85d\n\n", [("message", "a\u2028b\x0bc\x85d", "")], ""),
    "colons in values": ("data: a: b:c\n:\n: x\n\n", [("message", "a: b:c", "")], ""),
    "more than ASCII": ("event: größe\ndata: 🎈\n\n", [("größe", "🎈", "")], ""),
}  # fmt: skip


def read(pieces: list[bytes], retry: int = 3000) -> tuple[list[Message], Decoder]:
    decoder = Decoder("", retry)
    return [message for piece in pieces for message in decoder.feed(piece)], decoder


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("name", TABLE)
def test_a_stream_means_what_the_standard_says_wherever_it_is_split(name: str, end: str):
    text, messages, last_id = TABLE[name]
    raw = text.replace("\n", end).encode()

    for pieces in (
        [raw],
        [raw[at : at + 1] for at in range(len(raw))],
        *([raw[a:b] for a, b in pairwise((0, at, len(raw)))] for at in range(1, len(raw))),
    ):
        found, decoder = read(pieces)

        assert [(each.kind, each.data, each.id) for each in found] == messages, pieces
        assert decoder.last_id == last_id


def test_a_message_is_told_with_its_last_byte_though_a_line_feed_may_follow():
    decoder = Decoder("", 3000)

    assert [message.data for message in decoder.feed(b"data: 1\r\r")] == ["1"]
    assert [message.data for message in decoder.feed(b"\ndata: 2\r\r")] == ["2"]


def test_mixed_ends_of_lines():
    found, _ = read([b"data: 1\r\ndata: 2\rdata: 3\n\r\n"])

    assert [message.data for message in found] == ["1\n2\n3"]


def test_bytes_that_are_no_utf_8_become_a_sign_for_it():
    found, _ = read([b"data: \xff\n\n"])

    assert [message.data for message in found] == ["\ufffd"]


@pytest.mark.parametrize(
    "value, retry", [("250", 250), ("0", 0), ("1_0", 3000), ("+5", 3000), ("-5", 3000), ("1.5", 3000), ("", 3000), ("٣", 3000)]
)
def test_the_time_to_come_again_is_of_ascii_digits(value: str, retry: int):
    _, decoder = read([f"retry: {value}\n".encode()])

    assert decoder.retry == retry
