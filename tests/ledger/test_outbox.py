"""The outbox: claimed once, most urgent first, shallow, and announced again only when it seems lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from config.ids import uuid7
from ledger import outbox, workers
from tests.ledger.conftest import Books

pytestmark = pytest.mark.every_postgres


def claim(books: Books, tx=None, known=("test.run",), window=100, limit=100):
    return [row.job_id for row in outbox.claim(tx or books.tx, "test", known, window=window, limit=limit).rows]


def test_two_relays_never_claim_the_same_row(books: Books):
    books.submit(20)

    with psycopg.connect(books.database.url) as one, psycopg.connect(books.database.url) as two:
        first, second = claim(books, one, limit=15), claim(books, two)

    assert len(first) == 15
    assert len(second) == 5
    assert not set(first) & set(second)


def test_the_most_urgent_is_claimed_first(books: Books):
    books.submit(3)
    [urgent] = books.submit(priority=10)

    assert claim(books, limit=1) == [urgent]


def test_what_no_worker_knows_stays(books: Books):
    books.submit()

    assert claim(books, known=("test.other",)) == []


def test_only_a_window_is_announced_and_refilled_by_quarters(books: Books):
    books.submit(20)

    first = claim(books, window=8)
    full = claim(books, window=8)
    books.begin(*first[:2])

    assert (len(first), full) == (8, [])
    assert len(claim(books, window=8)) == 2


def test_an_unconfirmed_row_is_claimed_again(books: Books):
    ids = books.submit(2)
    claim(books)

    assert outbox.unmark(books.tx, ids[:1]) == 1
    assert claim(books) == ids[:1]


def announced(books: Books, ago: float) -> None:
    books.tx.execute("update haulier.outbox set announced_at = now() - make_interval(secs => %s), announcements = 1", (ago,))


@pytest.mark.parametrize(
    ("ago", "begun", "empty", "again"),
    [
        (5, 0, False, 0),  # others have begun, but this one is hardly older
        (20, 0, False, 1),  # others announced 10 s after it have begun
        (20, None, False, 0),
        (20, None, True, 0),
        (40, None, True, 1),  # its queue is empty and it is older than 30 s
        (40, None, False, 0),
        (700, None, False, 1),  # ten minutes, whatever else
    ],
)
def test_announcing_again_waits_for_a_sign_of_loss(books: Books, ago, begun, empty, again):
    books.submit()
    announced(books, ago)

    latest = None if begun is None else datetime.now(UTC) - timedelta(seconds=begun)

    assert outbox.announce_again(books.tx, "test", begun=latest, empty=empty) == again


def relay_seen(books: Books, ago: float) -> UUID:
    relay = uuid7()
    workers.register(books.tx, relay, "relay", "1")
    books.tx.execute("update haulier.workers set seen_at = now() - make_interval(secs => %s) where id = %s", (ago, relay))
    return relay


def test_what_a_lost_relay_announced_is_announced_again_once(books: Books):
    relay_seen(books, ago=20)
    relay_seen(books, ago=1)
    books.submit()
    announced(books, ago=21)
    [later] = books.submit()
    claim(books)

    assert outbox.unmark_of_lost_relays(books.tx, 8) == 1
    assert outbox.unmark_of_lost_relays(books.tx, 8) == 0
    assert books.value("select count(*) from haulier.outbox where job_id = %s and announced_at is null", later) == 0


def test_a_relay_that_was_only_frozen_is_known_again_and_can_be_lost_again(books: Books):
    relay = relay_seen(books, ago=20)
    outbox.unmark_of_lost_relays(books.tx, 8)
    workers.register(books.tx, relay, "relay", "1")
    books.submit()
    claim(books)

    assert outbox.unmark_of_lost_relays(books.tx, 8) == 0
    books.tx.execute("update haulier.workers set seen_at = now() - interval '9 seconds' where id = %s", (relay,))
    announced(books, ago=9)
    assert outbox.unmark_of_lost_relays(books.tx, 8) == 1


def test_the_oldest_is_found_whatever_its_priority(books: Books):
    for priority, ago in ((5, 10), (0, 40), (-7, 20), (5, 30)):
        books.submit(priority=priority)
        books.tx.execute(
            "update haulier.outbox set due_at = now() - make_interval(secs => %s) where due_at > now() - interval '5 seconds'", (ago,)
        )
    books.submit(priority=3, delay=600)

    assert 40 <= outbox.oldest(books.tx, "test") < 60
    assert outbox.oldest(books.tx, "other") == 0


def test_a_reset_broker_has_everything_announced_again(books: Books):
    books.submit(3)
    claim(books)

    assert outbox.unmark_all(books.tx) == 3
    assert len(claim(books)) == 3


def test_what_was_not_begun_by_its_time_is_cancelled(books: Books):
    [late] = books.submit(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    [in_time] = books.submit(expires_at=datetime.now(UTC) + timedelta(hours=1))

    assert len(outbox.expire(books.tx, 10)) == 1

    assert (books.state(late), books.state(in_time)) == ("cancelled", "queued")
    assert books.kinds(late) == ["accepted", "expired"]
    assert books.count("outbox") == 1
