"""Deliveries are jobs: signed for the standard's own library, retried by its schedule, ended by its rules. Real receivers, real ledger."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import orjson
import pytest
from prometheus_client import REGISTRY
from standardwebhooks import Webhook as Oracle
from standardwebhooks import WebhookVerificationError

from config.ids import uuid7
from ledger import webhooks
from ledger.webhooks import Webhook
from pipelines.webhooks import deliver
from pipelines.webhooks.deliver import SCHEDULE, DeliverWebhook, retry_after, wait_after
from pipelines.webhooks.give_up import GiveUpWebhook
from pipelines.webhooks.lanes import FAILURES, FIRST_PAUSE, Lanes
from pipelines.webhooks.signing import make_secret
from tests.webhooks.conftest import Office
from tests.webhooks.receiver import Received, Receiver


def state(office: Office, webhook: Webhook, number: int = -1) -> tuple[str, str | None]:
    told = office.told(webhook)[number]
    return told.state, told.reason


def log_of(office: Office, webhook: Webhook) -> list[tuple[str, Any]]:
    """Outcome and status of each try at its last delivery."""
    return [(attempt["outcome"], attempt["log"][-1]["status"]) for attempt in office.told(webhook)[-1].attempts]


def counted() -> dict[str, float]:
    """Tries at deliveries since the process began, by outcome."""
    outcomes = ("delivered", "gone", "refused", "unreachable", "given_up")
    return {each: REGISTRY.get_sample_value("haulier_webhook_deliveries_total", {"outcome": each}) or 0 for each in outcomes}


def verified(received: Received, *secrets: str) -> Any:
    """As a receiver does it, with each of the secrets."""
    found = [Oracle(secret).verify(received.body, received.headers) for secret in secrets]
    return found[0]


def test_a_message_arrives_signed_as_the_standard_says(office: Office, receiver: Receiver):
    secret = make_secret()
    webhook = office.webhook(f"{receiver.url}/hook?a=b", secret=secret)
    job = office.run()
    office.dispatch()

    office.carry_out()

    [received] = receiver.at("/hook?a=b")
    assert verified(received, secret)["data"]["id"] == str(job)
    assert received.headers["webhook-id"] == str(office.told(webhook)[0].id)
    assert received.headers["content-type"] == "application/json"
    assert state(office, webhook) == ("delivered", None)
    assert log_of(office, webhook) == [("succeeded", 204)]
    with pytest.raises(WebhookVerificationError):
        verified(received, make_secret())


def test_what_failed_is_sent_again_under_the_same_id_at_a_new_time(office: Office, receiver: Receiver, monkeypatch: pytest.MonkeyPatch):
    receiver.answer = lambda path, times: 500 if times == 1 else 200
    secret = make_secret()
    webhook = office.webhook(f"{receiver.url}/hook", secret=secret)
    office.run()
    office.dispatch()
    office.carry_out()
    [told] = office.told(webhook)
    assert (told.state, told.job_state, told.next_at is not None) == ("pending", "scheduled", True)
    later = time.time() + 5
    monkeypatch.setattr(deliver.time, "time", lambda: later)

    office.carry_out(waiting=True)

    first, second = receiver.at("/hook")
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert int(second.headers["webhook-timestamp"]) == int(later) > int(first.headers["webhook-timestamp"])
    assert first.body == second.body
    assert verified(first, secret) == verified(second, secret)
    assert log_of(office, webhook) == [("failed", 500), ("succeeded", 200)]
    assert state(office, webhook) == ("delivered", None)


def test_an_answer_that_was_lost_is_a_repeat_under_the_same_id(office: Office, receiver: Receiver):
    """P16: the receiver has it, we do not know."""
    receiver.answer = lambda path, times: "close" if times == 1 else 200
    webhook = office.webhook(f"{receiver.url}/hook")
    office.run()
    office.dispatch()
    office.carry_out()
    office.carry_out(waiting=True)

    assert len({received.headers["webhook-id"] for received in receiver.at("/hook")}) == 1
    assert len(receiver.at("/hook")) == 2
    assert state(office, webhook) == ("delivered", None)


@pytest.mark.parametrize(
    ("answer", "status"),
    [(301, 301), ((302, {"location": "/other"}), 302), (307, 307), (400, 400), (404, 404), (500, 500), ("hang", None), ("close", None), ("drip head", None)],
)  # fmt: skip
def test_all_but_a_2xx_is_a_failure(office: Office, receiver: Receiver, answer: Any, status: int | None):
    receiver.answer = lambda path, times: answer
    webhook = office.webhook(f"{receiver.url}/hook")
    office.run()
    office.dispatch()

    office.carry_out()

    assert log_of(office, webhook) == [("failed", status)]
    assert [received.path for received in receiver.received] == ["/hook"]


@pytest.mark.parametrize(("answer", "outcome"), [(204, "delivered"), (410, "gone"), (500, "refused"), ("close", "unreachable")])
def test_each_try_is_counted_by_what_came_of_it(office: Office, receiver: Receiver, answer: Any, outcome: str):
    receiver.answer = lambda path, times: answer
    office.webhook(f"{receiver.url}/hook")
    office.run()
    office.dispatch()
    before = counted()

    office.carry_out()

    assert counted() == before | {outcome: before[outcome] + 1}


def test_the_schedule_is_the_standard_s():
    assert SCHEDULE == (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
    assert timedelta(seconds=sum(SCHEDULE)) == timedelta(hours=75, minutes=35, seconds=5)
    for failures in range(1, 10):
        waits = [wait_after(failures) for _ in range(50)]
        assert all(0.9 * SCHEDULE[failures] <= wait <= 1.1 * SCHEDULE[failures] for wait in waits)
        assert len(set(waits)) > 1  # not all at the same moment
    assert deliver.deliver_webhook.retry.max_failures == 10


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_receiver_that_says_when_to_come_back_is_obeyed(office: Office, receiver: Receiver, status: int):
    receiver.answer = lambda path, times: (status, {"retry-after": "3000"})
    webhook = office.webhook(f"{receiver.url}/hook")
    office.run()
    office.dispatch()
    office.carry_out()

    next_at = office.told(webhook)[0].next_at

    assert next_at is not None
    assert next_at > datetime.now(UTC) + timedelta(seconds=2900)
    # And so for all that is due meanwhile.
    office.run()
    office.dispatch()
    office.carry_out()
    assert len(receiver.received) == 1


def test_another_status_may_not_say_when_to_come_back(office: Office, receiver: Receiver):
    receiver.answer = lambda path, times: (400, {"retry-after": "3000"})
    webhook = office.webhook(f"{receiver.url}/hook")
    office.run()
    office.dispatch()
    office.carry_out()

    next_at = office.told(webhook)[0].next_at

    assert next_at is not None
    assert next_at < datetime.now(UTC) + timedelta(seconds=60)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), ("", None), ("soon", None), ("-1", None), ("5", 5.0), ("9" * 400, 86_400.0), ("²", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)  # fmt: skip
def test_retry_after_is_a_number_or_a_date(value: str | None, seconds: float | None):
    assert retry_after(value) == seconds


def test_retry_after_may_be_a_date_ahead():
    found = retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True))

    assert found is not None
    assert 90 < found <= 100


def test_a_receiver_that_is_gone_is_left_alone_for_good(office: Office, receiver: Receiver):
    receiver.answer = lambda path, times: 410
    webhook = office.webhook(f"{receiver.url}/hook")
    office.run()
    office.run()
    office.dispatch()

    office.carry_out()

    found = office.find(webhook)
    assert (found.enabled, found.disabled_reason, found.version) == (False, "the receiver answered 410 Gone", 2)
    assert state(office, webhook, 0) == ("rejected", "gone")
    assert state(office, webhook, 1) == ("rejected", "disabled")
    assert len(receiver.received) == 1
    assert audited(office) == [("webhook.disable", str(webhook.id), "the receiver answered 410 Gone")]


def audited(office: Office) -> list[tuple[Any, ...]]:
    with office.shop.database.plumbing() as tx:
        return tx.execute("select action, target, reason from haulier.audit where tenant_id = %s order by id", (office.tenant,)).fetchall()


def use_up(office: Office) -> None:
    """All tries, with no pause between them."""
    for _ in range(10):
        deliver._lanes.cache_clear()
        office.carry_out(waiting=True)


def test_a_webhook_that_nothing_could_be_delivered_to_is_disabled(office: Office, receiver: Receiver):
    receiver.answer = lambda path, times: 500
    webhook = office.webhook(f"{receiver.url}/hook")
    office.run()
    office.dispatch()
    before = counted()

    use_up(office)

    assert state(office, webhook) == ("failed", "not_delivered")
    assert log_of(office, webhook) == [("failed", 500)] * 9 + [("died", 500)]
    assert office.find(webhook).enabled
    assert office.carry_out() == 1  # what follows from its death
    assert counted() == before | {"refused": before["refused"] + 10, "given_up": before["given_up"] + 1}
    found = office.find(webhook)
    assert not found.enabled
    assert found.disabled_reason is not None
    assert "could not be delivered" in found.disabled_reason
    assert [(action, target) for action, target, _ in audited(office)] == [("webhook.disable", str(webhook.id))]
    assert office.dispatch() == 0


def test_a_webhook_that_something_was_delivered_to_meanwhile_stays_enabled(office: Office, receiver: Receiver):
    webhook = office.webhook(f"{receiver.url}/hook")
    office.run()
    office.dispatch()
    poison = str(office.told(webhook)[0].id)
    receiver.answer = lambda path, times: 400 if receiver.received[-1].headers["webhook-id"] == poison else 200
    office.carry_out()
    office.run()
    office.dispatch()

    use_up(office)
    office.carry_out()

    assert state(office, webhook, 0) == ("failed", "not_delivered")
    assert state(office, webhook, 1) == ("delivered", None)
    assert office.find(webhook).enabled


def test_a_dead_delivery_can_be_replayed_as_any_dead_letter(office: Office, receiver: Receiver):
    from ledger import dead_letters

    receiver.answer = lambda path, times: 500 if times <= 10 else 200
    webhook = office.webhook(f"{receiver.url}/hook")
    office.run()
    office.dispatch()
    use_up(office)
    deliver._lanes.cache_clear()
    with office.shop.database.plumbing() as tx, tx.transaction():
        dead_letters.replay(tx, office.told(webhook)[0].job_id, [office.tenant], "key:test", None)

    office.carry_out()

    assert state(office, webhook) == ("delivered", None)
    assert len({received.headers["webhook-id"] for received in receiver.received}) == 1


def test_a_url_that_leads_home_by_now_is_not_called(office: Office, receiver: Receiver, monkeypatch: pytest.MonkeyPatch):
    """It was let pass when it was registered."""
    webhook = office.webhook(f"{receiver.url}/hook")
    office.run()
    office.dispatch()
    monkeypatch.setenv("HAULIER_WEBHOOK_NETWORKS", "")
    deliver.forget()

    office.carry_out()

    assert receiver.received == []
    assert log_of(office, webhook) == [("failed", None)]


def test_rotation_under_load_breaks_no_signature(office: Office, receiver: Receiver):
    """A receiver that has the old secret, one that has the new one: both verify everything that is sent while it is rotated."""
    old, new = make_secret(), make_secret()
    webhook = office.webhook(f"{receiver.url}/hook", secret=old)
    for _ in range(30):
        office.run()
    assert office.dispatch() == 30
    rotated = threading.Event()

    def answer(path: str, times: int) -> int:
        if times == 10:
            with office.shop.database.plumbing() as tx, tx.transaction():
                webhooks.rotate(tx, webhook, new, overlap=3600)
            rotated.set()
        return 200

    receiver.answer = answer

    office.carry_out()

    received = receiver.at("/hook")
    assert len(received) == 30
    assert rotated.is_set()
    for each in received:
        verified(each, old)
    for each in received[10:]:
        verified(each, old, new)
        assert len(each.headers["webhook-signature"].split(" ")) == 2
    for each in received[:10]:
        with pytest.raises(WebhookVerificationError):
            verified(each, new)


def test_every_byte_of_what_was_sent_is_signed(office: Office, receiver: Receiver):
    secret = make_secret()
    office.webhook(f"{receiver.url}/hook", secret=secret)
    office.run()
    office.dispatch()
    office.carry_out()
    [received] = receiver.received
    oracle = Oracle(secret)

    for place in range(len(received.body)):
        changed = received.body[:place] + bytes([received.body[place] ^ 1]) + received.body[place + 1 :]
        with pytest.raises(WebhookVerificationError):
            oracle.verify(changed, received.headers)


def test_an_old_secret_signs_no_longer_than_its_time_and_two_sign_at_most(office: Office, receiver: Receiver):
    secrets = [make_secret() for _ in range(4)]
    webhook = office.webhook(f"{receiver.url}/hook", secret=secrets[0])
    with office.shop.database.plumbing() as tx:
        for secret, overlap in zip(secrets[1:], (3600, 3600, 0), strict=True):
            with tx.transaction():
                webhooks.rotate(tx, webhook, secret, overlap)
            office.run()
            office.dispatch()
            office.carry_out()

    first, second, third = receiver.received
    verified(first, secrets[0], secrets[1])
    verified(second, secrets[1], secrets[2])
    verified(third, secrets[3])
    for received, secret in ((second, secrets[0]), (third, secrets[1]), (third, secrets[2])):
        with pytest.raises(WebhookVerificationError):
            verified(received, secret)


def test_a_delivery_is_carried_out_by_its_own_job_only(office: Office, receiver: Receiver):
    """Whoever may submit jobs may submit one of this command; nothing comes of it, for their own tenant's deliveries and for others'."""
    webhook = office.webhook(f"{receiver.url}/hook")
    office.run()
    office.dispatch()
    [told] = office.told(webhook)

    job = office.shop.run(DeliverWebhook(delivery_id=told.id))
    other = office.shop.run(GiveUpWebhook(delivery_id=told.id))
    unknown = office.shop.run(DeliverWebhook(delivery_id=uuid7()))

    assert [each.state for each in (job, other, unknown)] == ["rejected"] * 3
    assert all(each.error is not None and each.error["code"] == "unknown_delivery" for each in (job, other, unknown))
    assert receiver.received == []
    assert office.find(webhook).enabled


def test_a_delivery_to_a_webhook_that_was_removed_ends(office: Office, receiver: Receiver):
    webhook = office.webhook(f"{receiver.url}/hook")
    office.run()
    office.dispatch()
    job = office.told(webhook)[0].job_id
    with office.shop.database.plumbing() as tx:
        assert webhooks.remove(tx, webhook.id)
        assert tx.execute("select count(*) from haulier.webhook_secrets where webhook_id = %s", (webhook.id,)).fetchone() == (0,)

    office.carry_out()

    assert office.shop.job(job).state == "rejected"
    assert receiver.received == []


def test_no_secret_and_no_url_is_in_what_is_kept_of_a_job(office: Office, receiver: Receiver, capfd: pytest.CaptureFixture[str]):
    secret = make_secret()
    receiver.answer = lambda path, times: 500
    office.webhook(f"{receiver.url}/hook?token=hunter2", secret=secret)
    office.run()
    office.dispatch()
    office.carry_out()

    with office.shop.database.plumbing() as tx:
        kept = orjson.dumps(
            [
                tx.execute(f"select coalesce(jsonb_agg(to_jsonb(t)), '[]') from haulier.{table} t").fetchall()  # pyright: ignore[reportCallIssue, reportArgumentType]
                for table in ("jobs", "attempts", "events", "audit", "dead_letters")
            ]
        ).decode()
    said = capfd.readouterr()
    for where in (kept, said.out, said.err):
        assert secret.removeprefix("whsec_") not in where
        assert "hunter2" not in where


def test_a_dead_receiver_holds_one_thread_and_then_none():
    """F44: the others go on."""
    now = [0.0]
    lanes, dead, well = Lanes(clock=lambda: now[0]), uuid7(), uuid7()

    assert [lanes.enter(dead) for _ in range(3)] == [None] * 3  # nothing is known of it yet
    for _ in range(3):
        lanes.leave(dead, well=False, seconds=15)
    wait = lanes.enter(dead)
    assert wait is not None
    assert wait >= FIRST_PAUSE
    assert lanes.is_left_alone(dead)
    assert [lanes.enter(well) for _ in range(100)] == [None] * 100
    for failures in range(FAILURES + 1, 20):
        now[0] += 2000
        assert lanes.enter(dead) is None  # one tries
        assert lanes.enter(dead) is not None  # and no other beside it
        lanes.leave(dead, well=False, seconds=15)
        wait = lanes.enter(dead)
        assert wait is not None
        assert wait >= min(900, FIRST_PAUSE * 2 ** (failures - FAILURES))
    now[0] += 2000
    assert lanes.enter(dead) is None
    lanes.leave(dead, well=True, seconds=0.1)
    assert [lanes.enter(dead) for _ in range(3)] == [None] * 3


def test_a_slow_receiver_holds_one_thread():
    lanes, slow = Lanes(), uuid7()
    assert lanes.enter(slow) is None
    lanes.leave(slow, well=True, seconds=9)

    assert lanes.enter(slow) is None
    assert lanes.enter(slow) is not None
    lanes.leave(slow, well=True, seconds=0.1)
    assert [lanes.enter(slow) for _ in range(3)] == [None] * 3


def test_lanes_hold_for_any_number_of_threads():
    lanes, dead = Lanes(), uuid7()
    assert lanes.enter(dead) is None
    lanes.leave(dead, well=False, seconds=1)
    inside, most, lock = 0, 0, threading.Lock()

    def go(_: int) -> None:
        nonlocal inside, most
        if lanes.enter(dead) is None:
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.001)
            with lock:
                inside -= 1
            lanes.leave(dead, well=False, seconds=1)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(go, range(200)))
    assert most == 1


def test_what_waits_for_a_receiver_that_is_left_alone_is_no_failure_and_not_for_ever(office: Office, receiver: Receiver):
    receiver.answer = lambda path, times: 500
    webhook = office.webhook(f"{receiver.url}/hook")
    for _ in range(4):
        office.run()
    office.dispatch()
    office.carry_out()
    told = office.told(webhook)
    assert len(receiver.received) == FAILURES
    assert [(each.state, each.attempts[-1]["outcome"]) for each in told] == [("pending", "failed")] * 3 + [("pending", "snoozed")]
    with office.shop.database.plumbing() as tx:
        tx.execute("update haulier.webhook_deliveries set created_at = now() - interval '5 days' where id = %s", (told[3].id,))

    office.carry_out(waiting=True)

    assert state(office, webhook, 3) == ("failed", "never_delivered")
