"""The dispatcher: each end of a job is told once to each webhook that wants to know, whatever order transactions commit in."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import orjson
import psycopg
import pytest

from config.ids import uuid7
from ledger import archive, attempts, dead_letters, deliveries, jobs, keys, webhooks
from ledger.attempts import Lease
from pipelines.webhooks.message import MAX_MESSAGE, JobMessage
from tests.webhooks.conftest import Do, Office, Other
from tests.webhooks.receiver import Receiver
from workers.webhooks import dispatch

URL = "http://127.0.0.1:1/hook"


def test_a_webhook_hears_of_the_ends_that_it_asked_for(office: Office):
    all_ends, only_bad = office.webhook(URL), office.webhook(URL, "job.dead", "job.rejected")
    ids = {end: office.run(Do(end=end)) for end in ("succeeded", "rejected", "dead")}
    [cancelled] = office.shop.submit(Do())
    with office.shop.database.plumbing() as tx:
        assert jobs.cancel(tx, cancelled, [office.tenant], "key:test")

    office.dispatch()

    assert [(each.event, each.subject_id) for each in office.told(all_ends)] == [
        ("job.succeeded", ids["succeeded"]), ("job.rejected", ids["rejected"]), ("job.dead", ids["dead"]), ("job.cancelled", cancelled),
    ]  # fmt: skip
    assert [each.event for each in office.told(only_bad)] == ["job.rejected", "job.dead"]


def test_a_webhook_hears_of_the_commands_that_it_asked_for(office: Office):
    webhook = office.webhook(URL, commands=["tests.other"])
    office.run(Do())
    other = office.run(Other())

    office.dispatch()

    assert [each.subject_id for each in office.told(webhook)] == [other]


def test_nothing_is_told_twice_and_nothing_of_before(office: Office):
    office.run()
    webhook = office.webhook(URL)
    job = office.run()

    assert (office.dispatch(), office.dispatch()) == (1, 0)
    assert [each.subject_id for each in office.told(webhook)] == [job]


def test_no_delivery_is_told_of(office: Office, receiver: Receiver):
    """Else each would bring forth the next."""
    webhook = office.webhook(receiver.url)
    office.run()

    assert office.dispatch() == 1
    assert office.carry_out() == 1
    assert office.told(webhook)[0].job_state == "succeeded"
    assert office.dispatch() == 0


def test_the_dispatcher_rolled_back_has_submitted_nothing_and_tells_it_again(office: Office):
    webhook = office.webhook(URL)
    office.run()
    with office.shop.database.plumbing() as tx, pytest.raises(RuntimeError, match="killed"), tx.transaction():
        assert dispatch(tx).submitted == 1
        raise RuntimeError("killed")
    assert office.told(webhook) == []

    assert office.dispatch() == 1
    assert len(office.told(webhook)) == 1


def test_an_end_that_commits_late_is_not_passed_over(office: Office):
    """Its transaction began before those of events that have been told long since."""
    webhook = office.webhook(URL)
    [late] = office.shop.submit(Do())
    with psycopg.connect(office.shop.database.url) as slow:
        begun, _ = attempts.begin(slow, office.shop.worker, [(late, 1)], {"tests.do": 30.0})
        assert begun
        slow.commit()
        slow.execute("select pg_current_xact_id()")
        early = office.run()
        office.dispatch()
        attempts.complete(slow, Lease(late, 1, office.shop.worker), None)

    office.dispatch()

    assert {each.subject_id for each in office.told(webhook)} == {early, late}


def test_another_tenant_is_told_nothing(office: Office):
    with office.shop.database.plumbing() as tx:
        other = keys.add_tenant(tx, "other", "Other")
    assert other is not None
    theirs = replace(office, tenant=other.id).webhook(URL)
    mine = office.webhook(URL)
    office.run()

    assert office.dispatch() == 1

    assert office.told(theirs) == []
    assert len(office.told(mine)) == 1


def test_a_callback_is_told_whatever_it_subscribes_to(office: Office):
    webhook = office.webhook(URL, "job.dead")
    called, _ = office.run(callback=webhook.id), office.run()

    office.dispatch()

    assert [(each.event, each.subject_id) for each in office.told(webhook)] == [("job.succeeded", called)]


def test_a_callback_to_nobody_or_to_another_tenant_s_webhook_is_told_to_nobody(office: Office):
    """The intake refuses both; should one come by another way, it leads nowhere."""
    with office.shop.database.plumbing() as tx:
        other = keys.add_tenant(tx, "other", "Other")
    assert other is not None
    theirs = replace(office, tenant=other.id).webhook(URL)
    office.run(callback=theirs.id)
    office.run(callback=uuid4())

    assert office.dispatch() == 0


def test_a_disabled_webhook_is_told_nothing_and_hears_again_from_when_it_is_enabled(office: Office):
    webhook = office.webhook(URL)
    with office.shop.database.plumbing() as tx:
        changed = webhooks.change(tx, replace(webhook, enabled=False), "by a test")
    assert changed is not None
    assert changed.disabled_reason == "by a test"
    office.run()
    assert office.dispatch() == 0
    with office.shop.database.plumbing() as tx:
        again = webhooks.change(tx, replace(changed, enabled=True), "")
    assert again is not None
    assert again.disabled_reason is None
    job = office.run()

    office.dispatch()

    assert [each.subject_id for each in office.told(webhook)] == [job]


def test_a_replay_is_told_of_when_it_ends_again_and_a_resolution_is_not(office: Office):
    webhook = office.webhook(URL)
    job = office.run(Do(end="dead"))
    with office.shop.database.plumbing() as tx:  # as `resolve` leaves it: one more event of a dead letter
        tx.execute("update haulier.jobs set seq = seq + 1 where id = %s", (job,))
        tx.execute(
            "insert into haulier.events (job_id, seq, tenant_id, kind, state, attempt)"
            " select id, seq, tenant_id, 'resolved', 'dead', attempt from haulier.jobs where id = %s",
            (job,),
        )
    assert office.dispatch() == 1
    with office.shop.database.plumbing() as tx, tx.transaction():
        dead_letters.replay(tx, job, [office.tenant], "key:test", "again", '{"end": "succeeded"}')
    office.shop.deliver(job, attempt=2)

    office.dispatch()

    assert [each.event for each in office.told(webhook)] == ["job.dead", "job.succeeded"]


def test_a_family_s_end_is_told_once_by_whoever_ended_last(office: Office):
    webhook = office.webhook(URL, "family.ended", commands=["tests.do"])
    root = office.run(Do(follow_ups=2))
    assert office.dispatch() == 0
    with office.shop.database.plumbing() as tx:
        first, second = [row[0] for row in tx.execute("select id from haulier.jobs where parent_id = %s order by id", (root,))]
    office.shop.deliver(first)
    assert office.dispatch() == 0
    office.shop.deliver(second)

    assert (office.dispatch(), office.dispatch()) == (1, 0)

    [delivery] = office.told(webhook)
    assert (delivery.event, delivery.subject_id) == ("family.ended", root)
    assert body(office, webhook)["data"]["counts"] == {"succeeded": 3}


def test_two_that_end_together_tell_of_their_family_once(office: Office, monkeypatch: pytest.MonkeyPatch):
    """Each of them, looked at in a step of its own, finds that all have ended."""
    webhook = office.webhook(URL, "family.ended")
    root = office.run(Do(follow_ups=2))
    with office.shop.database.plumbing() as tx:
        children = [row[0] for row in tx.execute("select id from haulier.jobs where parent_id = %s order by id", (root,))]
    for child in children:
        office.shop.deliver(child)
    with office.upkeep.plumbing() as tx, tx.transaction():
        look = deliveries.stretch(tx)
        assert look is not None
        found, _ = deliveries.ended(tx, look, [], 100)
    cut = next(each.xact for each in found if each.job_id == children[1])
    monkeypatch.setattr(deliveries, "SPAN", cut - look.after)

    with office.upkeep.plumbing() as tx:
        with tx.transaction():
            assert dispatch(tx).submitted == 1
        assert tx.execute("select xact from haulier.webhook_cursor").fetchone() == (cut,)
        with tx.transaction():
            assert dispatch(tx).submitted == 0
    assert len(office.told(webhook)) == 1


def test_many_in_one_transaction_and_many_transactions_are_all_told(office: Office, monkeypatch: pytest.MonkeyPatch):
    from workers import webhooks as dispatcher

    webhook = office.webhook(URL)
    monkeypatch.setattr(dispatcher, "STEP", 3)
    monkeypatch.setattr(deliveries, "SPAN", 4)
    one_by_one = [office.run() for _ in range(7)]
    together = office.shop.submit(*[Do() for _ in range(10)])
    with office.shop.database.plumbing() as tx, tx.transaction():
        for job in together:
            assert jobs.cancel(tx, job, [office.tenant], "key:test")
    after = office.run()

    assert office.dispatch() == 18

    assert {each.subject_id for each in office.told(webhook)} == {*one_by_one, *together, after}


def test_a_message_says_what_happened_and_shows_no_payload_or_result(office: Office):
    webhook = office.webhook(URL)
    job = office.run(Do(end="dead"), labels={"source": "web"})
    office.dispatch()

    [text] = bodies(office, webhook)
    message = JobMessage.model_validate_json(text)

    assert (message.type, message.data.id, message.data.state, message.data.reason) == ("job.dead", job, "dead", "exhausted")
    assert (message.data.error_code, message.data.attempt, message.data.labels) == ("unexpected", 1, {"source": "web"})
    assert message.data.family.state == "dead"
    assert message.data.links["job"] == f"/v1/jobs/{job}"
    assert "customer" not in text


def test_a_message_stays_short_whatever_its_labels_are(office: Office):
    webhook = office.webhook(URL)
    office.run(labels={f"{n}{'ü' * 60}": "ß" * 255 for n in range(20)} | {f"x{n}": "語" * 255 for n in range(20)})
    office.dispatch()

    [text] = bodies(office, webhook)

    assert len(text.encode()) < MAX_MESSAGE
    assert orjson.loads(text)["data"]["labels"] is None


def test_what_was_not_told_stays_out_of_the_archive(office: Office):
    office.webhook(URL)
    job = office.run()
    with office.upkeep.plumbing() as tx:
        archive.open_partitions(tx, datetime.now(UTC).date())
        assert archive.archive(tx, timedelta(0), None).moved == 0

        assert office.dispatch() == 1

        assert archive.archive(tx, timedelta(0), None).moved == 1
        assert tx.execute("select count(*) from haulier.archive where id = %s", (job,)).fetchone() == (1,)


def test_without_a_webhook_nothing_is_held_back_and_a_look_is_one_statement(office: Office):
    office.run()
    with office.upkeep.plumbing() as tx:
        archive.open_partitions(tx, datetime.now(UTC).date())
        assert archive.archive(tx, timedelta(0), None).moved == 1
        said: list[str] = []
        execute = tx.execute
        tx.execute = lambda query, *rest: (said.append(query), execute(query, *rest))[1]  # pyright: ignore[reportAttributeAccessIssue]
        try:
            assert dispatch(tx).submitted == 0
        finally:
            del tx.execute
    assert said == [deliveries.CURSOR]


def test_events_are_found_by_their_index_at_any_size(office: Office):
    """On upkeep's own connections, which are told to read neither whole tables nor bitmaps."""
    with office.upkeep.plumbing() as tx, tx.transaction():
        from ledger.connection import send

        send(tx, deliveries.BY_TRANSACTION)
        plan = "\n".join(row[0] for row in tx.execute("explain " + deliveries.ENDS, {"after": 1, "before": 2, "tenants": [1], "limit": 10}))
    assert "Bitmap Index Scan on events_by_transaction" in plan


def bodies(office: Office, webhook: webhooks.Webhook) -> list[str]:
    with office.shop.database.plumbing() as tx:
        return [
            row[0] for row in tx.execute("select body from haulier.webhook_deliveries where webhook_id = %s order by id", (webhook.id,))
        ]


def body(office: Office, webhook: webhooks.Webhook) -> dict[str, dict[str, object]]:
    return orjson.loads(bodies(office, webhook)[-1])


def test_old_deliveries_are_dropped(office: Office):
    webhook = office.webhook(URL)
    office.run()
    office.dispatch()
    with office.upkeep.plumbing() as tx:
        assert deliveries.forget_old(tx, office.told(webhook)[0].id) == 0
        assert deliveries.forget_old(tx, uuid7()) == 1
    assert office.told(webhook) == []
