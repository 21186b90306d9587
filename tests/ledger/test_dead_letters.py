"""Dead letters and calls to the outside: replayed with their history, and never blindly."""

from __future__ import annotations

import pytest

from ledger import attempts, calls, dead_letters, jobs, reading
from ledger.attempts import End, Lease, LeaseLostError
from tests.ledger.conftest import Books

pytestmark = pytest.mark.every_postgres


def die(books: Books, lease: Lease) -> None:
    attempts.settle(books.tx, [End(lease.job_id, lease.attempt, lease.worker_id, "dead", "died", "exhausted", blame=True)])


def test_a_replay_keeps_job_history_and_original_payload(books: Books):
    lease = books.running()
    die(books, lease)

    dead_letters.replay(books.tx, lease.job_id, [books.tenant], "ann", "repaired", '{"n": 2}')

    job = reading.job(books.tx, lease.job_id, None)
    assert job is not None
    assert (job.state, job.failures, job.attempt, job.payload, job.original_payload) == ("queued", 0, 1, {"n": 2}, {"n": 1})
    assert books.kinds(lease.job_id) == ["accepted", "started", "died", "replayed"]
    assert books.count("dead_letters") == 0
    [again] = books.begin(lease.job_id, attempt=2)
    assert again.payload == '{"n": 2}'


def test_a_replayed_job_is_not_cancelled_by_what_somebody_wanted_of_an_earlier_attempt(books: Books):
    lease = books.running()
    jobs.request_cancel(books.tx, lease.job_id, [books.tenant], "bob")
    die(books, lease)

    dead_letters.replay(books.tx, lease.job_id, [books.tenant], "ann", "wanted after all")
    books.begin(lease.job_id, attempt=2)
    failed = End(lease.job_id, 2, books.worker, "scheduled", "failed", blame=True)

    assert attempts.settle(books.tx, [failed]) == {lease.job_id: "scheduled"}


def test_only_the_dead_are_replayed_and_only_by_their_own(books: Books):
    lease = books.running()
    with pytest.raises(dead_letters.NotDeadError, match="nothing changed"):
        dead_letters.replay(books.tx, lease.job_id, [books.tenant], "ann", None)

    die(books, lease)
    with pytest.raises(dead_letters.NotDeadError):
        dead_letters.replay(books.tx, lease.job_id, [books.tenant + 1], "a stranger", None)


def test_a_call_is_intended_only_under_a_lease(books: Books):
    lease = books.running()
    die(books, lease)

    with pytest.raises(LeaseLostError):
        calls.intend(books.tx, lease, "charge", 0, honours_key=True)


def test_a_call_of_unknown_outcome_bars_the_replay_until_it_is_resolved(books: Books):
    lease = books.running()
    calls.intend(books.tx, lease, "charge", 0, honours_key=False)
    die(books, lease)

    with pytest.raises(dead_letters.OutcomeUnknownError, match="charge"):
        dead_letters.replay(books.tx, lease.job_id, [books.tenant], "ann", None)
    assert dead_letters.resolve(
        books.tx, lease.job_id, [books.tenant], "ann", "charge", happened=True, result='{"id": 7}', reason="seen in their books"
    )
    dead_letters.replay(books.tx, lease.job_id, [books.tenant], "ann", None)

    found = calls.find(books.tx, lease.job_id, "charge", 0)
    assert found is not None
    assert (found.state, found.result) == ("done", {"id": 7})


def test_new_keys_come_only_after_a_refusal_and_keep_what_was_done(books: Books):
    lease = books.running()
    calls.intend(books.tx, lease, "quote", 0, honours_key=True)
    calls.record(books.tx, lease.job_id, "quote", 0, "done", "1")
    die(books, lease)
    dead_letters.replay(books.tx, lease.job_id, [books.tenant], "ann", None)
    [again] = books.begin(lease.job_id, attempt=2)
    assert again.generation == 0

    lease = Lease(lease.job_id, 2, books.worker)
    calls.intend(books.tx, lease, "charge", 0, honours_key=True)
    calls.record(books.tx, lease.job_id, "charge", 0, "refused", None)
    die(books, lease)
    dead_letters.replay(books.tx, lease.job_id, [books.tenant], "ann", None)

    [third] = books.begin(lease.job_id, attempt=3)
    carried = calls.find(books.tx, lease.job_id, "quote", 1)
    assert third.generation == 1
    assert carried is not None
    assert carried.state == "done"
    assert calls.find(books.tx, lease.job_id, "charge", 1) is None
