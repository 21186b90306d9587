"""Begin and settle: whatever holds no lease writes nothing."""

from __future__ import annotations

import threading
from uuid import UUID

import psycopg
import pytest

from config.ids import uuid7
from ledger import attempts, jobs
from ledger.attempts import End, Lease, LeaseLostError, Success
from tests.crash.rig import eventually
from tests.ledger.conftest import TIMEOUTS, Books

pytestmark = pytest.mark.every_postgres


def rejected(lease: Lease) -> End:
    return End(lease.job_id, lease.attempt, lease.worker_id, "rejected", "rejected", error='{"code": "sold_out", "message": "none left"}')


def failed(lease: Lease, state: str = "scheduled", **facts) -> End:
    return End(lease.job_id, lease.attempt, lease.worker_id, state, "failed", blame=True, error='{"code": "x", "message": "y"}', **facts)


def test_a_doubled_delivery_begins_nothing(books: Books):
    [job_id] = books.submit()

    first, again = books.begin(job_id), books.begin(job_id)

    assert [job.attempt for job in first] == [1]
    assert again == []
    assert books.kinds(job_id) == ["accepted", "started"]


def test_a_message_that_expects_another_attempt_begins_nothing(books: Books):
    [job_id] = books.submit()

    assert books.begin(job_id, attempt=2) == []
    assert books.state(job_id) == "queued"


def test_a_success_is_written_once_with_its_attempt_and_its_event(books: Books):
    lease = books.running()

    attempts.complete(books.tx, lease, '{"ok": true}')

    assert books.state(lease.job_id) == "succeeded"
    assert books.kinds(lease.job_id) == ["accepted", "started", "succeeded"]
    assert books.value("select count(*) from haulier.attempts where outcome = 'succeeded'") == 1
    assert books.count("outbox") == books.count("leases") == 0


def test_a_slow_worker_cannot_complete_what_another_attempt_now_holds(books: Books):
    slow = books.running()
    attempts.settle(books.tx, [End(slow.job_id, 1, books.worker, "queued", "rescued")])
    [second] = books.begin(slow.job_id, attempt=2)

    with pytest.raises(LeaseLostError, match="attempt 1 no longer holds"):
        attempts.complete(books.tx, slow, '"late"')
    assert attempts.complete_many(books.tx, books.worker, [Success(slow.job_id, 1, '"late"')]) == set()
    assert attempts.settle(books.tx, [rejected(slow)]) == {}
    with pytest.raises(LeaseLostError):
        attempts.keep_checkpoint(books.tx, slow, '"late"')

    assert second.attempt == 2
    assert books.state(slow.job_id) == "running"
    assert books.value("select result is null and checkpoint is null from haulier.jobs") is True


def test_another_worker_with_the_same_attempt_number_cannot_complete(books: Books):
    lease = books.running()
    other = Lease(lease.job_id, lease.attempt, uuid7())

    with pytest.raises(LeaseLostError):
        attempts.complete(books.tx, other, None)
    assert attempts.complete_many(books.tx, other.worker_id, [Success(lease.job_id, 1)]) == set()
    assert attempts.settle(books.tx, [rejected(other)]) == {}

    assert books.state(lease.job_id) == "running"


def test_a_set_is_completed_as_far_as_it_is_held(books: Books):
    begun = books.begin(*books.submit(5))
    attempts.complete(books.tx, Lease(begun[0].job_id, 1, books.worker), None)

    held = attempts.complete_many(books.tx, books.worker, [Success(job.job_id, 1, "1") for job in begun])

    assert held == {job.job_id for job in begun[1:]}
    assert books.value("select count(*) from haulier.jobs where state = 'succeeded'") == 5
    assert books.value("select count(*) from haulier.attempts") == 5


def test_a_set_may_have_jobs_at_several_attempts_each_with_its_own_end(books: Books):
    again, new, stale = books.submit(3)
    books.begin(again)
    attempts.settle(books.tx, [failed(Lease(again, 1, books.worker), "queued")])
    books.tx.execute("update haulier.outbox set announced_at = to_timestamp(case job_id when %s then 1000 else 2000 end)", (again,))

    begun, announced_at = attempts.begin(books.tx, books.worker, [(new, 1), (again, 2), (stale, 2)], TIMEOUTS)
    assert books.value("select count(distinct deadline_at) from haulier.leases") == 1  # of each: when all of them must have ended
    held = attempts.complete_many(books.tx, books.worker, [Success(again, 2, '"b"'), Success(new, 1, '"a"', '[{"message": "hi"}]')])

    assert {(job.job_id, job.attempt) for job in begun} == {(new, 1), (again, 2)}
    assert announced_at == 2000
    assert held == {again, new}
    ends = "select j.result, a.log from haulier.jobs j join haulier.attempts a on a.job_id = j.id and a.number = j.attempt where j.id = %s"
    assert books.tx.execute(ends, (again,)).fetchall() == [("b", None)]
    assert books.tx.execute(ends, (new,)).fetchall() == [("a", [{"message": "hi"}])]
    assert books.state(stale) == "queued"


def test_a_failure_waits_in_the_outbox_for_its_next_attempt(books: Books):
    lease = books.running()

    states = attempts.settle(books.tx, [failed(lease, wait=60)])

    assert states == {lease.job_id: "scheduled"}
    assert books.value("select failures from haulier.jobs") == 1
    assert books.value("select attempt = 2 and scheduled and due_at > now() + interval '50 seconds' from haulier.outbox") is True


def test_a_rejection_submits_the_follow_up_that_its_command_names(books: Books):
    lease = books.running()

    attempts.settle(books.tx, [rejected(lease)])

    follow_up = books.tx.execute("select command, state::text, payload, root_id from haulier.jobs where parent_id = %s", (lease.job_id,))
    assert follow_up.fetchone() == ("test.after", "queued", {"n": 1}, lease.job_id)
    assert books.state(lease.job_id) == "rejected"
    assert books.count("outbox") == 1


def test_a_death_leaves_a_dead_letter_and_its_follow_up(books: Books):
    lease = books.running()

    attempts.settle(books.tx, [failed(lease, "dead", reason="exhausted")])

    assert books.tx.execute("select reason, code, message from haulier.dead_letters").fetchone() == ("exhausted", "x", "y")
    assert books.value("select count(*) from haulier.jobs where command = 'test.after'") == 1


def test_a_failed_attempt_of_a_job_to_be_cancelled_is_its_last(books: Books):
    from ledger import jobs

    lease = books.running()
    assert jobs.request_cancel(books.tx, lease.job_id, [books.tenant], "somebody")

    states = attempts.settle(books.tx, [failed(lease, wait=1)])

    assert states == {lease.job_id: "cancelled"}
    assert books.count("outbox") == books.count("leases") == 0
    assert books.kinds(lease.job_id) == ["accepted", "started", "cancel_requested", "cancelled"]


def test_what_has_expired_is_not_begun(books: Books):
    from datetime import UTC, datetime, timedelta

    [job_id] = books.submit(expires_at=datetime.now(UTC) - timedelta(seconds=1))

    assert books.begin(job_id) == []


def test_what_this_worker_does_not_know_is_announced_again(books: Books):
    [job_id] = books.submit()
    books.tx.execute("update haulier.outbox set announced_at = now()")

    begun, _ = attempts.begin(books.tx, books.worker, [(job_id, 1)], {"test.other": 30.0})
    declined = attempts.decline(books.tx, [job_id], ["test.other"])

    assert (begun, declined) == ([], 1)
    assert books.value("select announced_at is null and due_at > now() from haulier.outbox") is True


def test_the_leases_of_a_set_last_as_long_as_all_of_it(books: Books):
    """Its members run one after the other; upkeep must not end the last one before it has started."""
    books.begin(*books.submit(3))

    assert 80 < books.value("select extract(epoch from min(deadline_at) - now()) from haulier.leases") <= 90


def test_a_cancel_that_commits_while_its_attempt_is_being_settled_is_seen(books: Books):
    lease = books.running()
    settled: list[dict[UUID, str]] = []

    def settle() -> None:
        with psycopg.connect(books.database.url, autocommit=True) as tx:
            settled.append(attempts.settle(tx, [End(lease.job_id, 1, books.worker, "queued", "failed", blame=True)]))

    thread = threading.Thread(target=settle)
    with psycopg.connect(books.database.url) as canceller:
        jobs.request_cancel(canceller, lease.job_id, [books.tenant], "somebody")
        thread.start()
        eventually(lambda: books.value("select count(*) from pg_locks where not granted") > 0, 10, "settle waits for the row")
    thread.join()

    assert settled == [{lease.job_id: "cancelled"}]
    assert (books.state(lease.job_id), books.count("outbox")) == ("cancelled", 0)
