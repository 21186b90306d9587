"""Submit: one job for one wish, whatever is repeated."""

from __future__ import annotations

import threading
from dataclasses import replace

import psycopg
import pytest

from ledger import jobs
from tests.ledger.conftest import Books

pytestmark = pytest.mark.every_postgres


def wish(books: Books, **facts) -> jobs.Submission:
    return replace(books.wish(), **facts)


def test_a_hundred_threads_with_one_key_make_one_job(books: Books):
    wishes = [wish(books, key="order-17", fingerprint=b"same") for _ in range(100)]
    accepted: list[dict] = []

    def submit(mine: jobs.Submission) -> None:
        with psycopg.connect(books.database.url, autocommit=True) as tx:
            accepted.append(jobs.submit(tx, [mine]))

    threads = [threading.Thread(target=submit, args=(mine,)) for mine in wishes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(map(len, accepted)) == 1
    found = jobs.find_key(books.tx, books.tenant, "order-17")
    assert found == (next(iter(set().union(*accepted))), b"same")
    assert books.count("jobs") == books.count("outbox") == books.count("events") == 1


def test_one_key_twice_in_a_set_makes_one_job(books: Books):
    first, second, other = wish(books, key="a"), wish(books, key="a"), wish(books)

    assert set(jobs.submit(books.tx, [first, second, other])) == {first.id, other.id}


def test_a_commit_of_unknown_outcome_is_repeated_without_harm(books: Books):
    mine = [wish(books), wish(books, key="k")]
    jobs.submit(books.tx, mine)

    assert set(jobs.submit(books.tx, mine)) == set()
    assert jobs.exists(books.tx, [each.id for each in mine]) == {each.id for each in mine}
    assert books.count("jobs") == books.count("outbox") == 2


def test_the_same_key_of_another_tenant_is_another_key(books: Books):
    from ledger import keys

    other = keys.add_tenant(books.tx, "other", "Other")
    assert other is not None

    accepted = jobs.submit(books.tx, [wish(books, key="k"), wish(books, key="k", tenant_id=other.id)])

    assert len(accepted) == 2


def test_a_job_for_later_is_scheduled_and_staged_when_due(books: Books):
    from ledger import outbox

    [job_id] = books.submit(delay=3600)
    assert (books.state(job_id), outbox.stage(books.tx, 10)) == ("scheduled", [])

    books.tx.execute("update haulier.outbox set due_at = now()")

    assert [staged[0] for staged in outbox.stage(books.tx, 10)] == [job_id]
    assert books.state(job_id) == "queued"
    assert books.kinds(job_id) == ["accepted", "queued"]


def test_cancelling_takes_a_waiting_job_out_at_once_and_a_running_one_never(books: Books):
    [waiting] = books.submit()
    running = books.running()

    assert jobs.cancel(books.tx, waiting, [books.tenant], "me") is True
    assert jobs.cancel(books.tx, waiting, [books.tenant], "me") is False
    assert jobs.cancel(books.tx, running.job_id, [books.tenant], "me") is False
    assert jobs.cancel(books.tx, running.job_id, [books.tenant + 1], "a stranger") is False

    assert books.state(waiting) == "cancelled"
    assert books.count("outbox") == 0


def test_any_language_submits_in_its_own_transaction(books: Books):
    with books.tx.transaction(force_rollback=True):
        books.tx.execute("""select haulier.submit('test.run', '{"n": 2}', '{"tenant": "acme"}')""")

    job_id = books.value("""select haulier.submit('test.run', '{"n": 2}', '{"tenant": "acme", "delay": 60, "priority": 5}')""")

    assert job_id.version == 7
    assert books.count("jobs") == 1
    assert books.state(job_id) == "scheduled"
    assert books.value("select priority from haulier.outbox") == 5


def unique(wanted: str) -> str:
    return f"""haulier.submit('test.run', '{{}}', '{{"tenant": "acme", "unique": {wanted}}}')"""


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("haulier.submit('test.rum', '{}', '{\"tenant\": \"acme\"}')", "unknown command 'test.rum'"),
        ("haulier.submit('test.run', '{}', '{\"tenant\": \"nobody\"}')", "must name an existing tenant"),
        ("haulier.submit('test.run', '{}')", "must name an existing tenant"),
        ("haulier.submit('test.run', '[]', '{\"tenant\": \"acme\"}')", "payload must be a JSON object, got array"),
        ("haulier.submit('test.run', '{}', '{\"tenant\": \"acme\", \"prio\": 1}')", "does not know the option 'prio'"),
        (unique('"k"'), 'unique must be an object such as {"key": "cart-17"}, got string'),
        (unique("{}"), "unique.key must be a string of 1 to 255 characters, got none"),
        (unique('{"key": ""}'), "unique.key must be"),
        (unique(f'{{"key": "{"k" * 256}"}}'), "unique.key must be"),
        (unique('{"key": 7}'), "unique.key must be"),
        (unique('{"key": "k", "hold": 1}'), "unique does not know 'hold'"),
        (unique('{"key": "k", "while": 0}'), "unique.while must be .* got 0"),
        (unique('{"key": "k", "while": 31622401}'), "unique.while must be"),
        (unique('{"key": "k", "while": "queued"}'), "unique.while must be"),
        (unique('{"key": "k", "while": null}'), "unique.while must be"),
        (unique('{"key": "k", "on_conflict": "ignore"}'), "unique.on_conflict must be return, reject or replace, got ignore"),
    ],
)
def test_a_wrong_call_from_sql_says_what_was_expected(books: Books, call: str, says: str):
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=says):
        books.tx.execute(f"select {call}")  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert books.count("jobs") == 0


@pytest.mark.parametrize("taken", [0, 2, 3])
def test_a_set_says_which_of_it_are_new(books: Books, taken: int):
    earlier = [wish(books, key=f"k{n}", fingerprint=b"same") for n in range(taken)]
    again = [wish(books, key=f"k{n}", fingerprint=b"same") for n in range(3)]
    if earlier:
        jobs.submit_set(books.tx, earlier)

    assert jobs.submit_set(books.tx, again) == {each.id for each in again[taken:]}
