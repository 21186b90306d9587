"""Every failpoint there is, reached for the first and for the second time, kills its process with SIGKILL while twenty jobs go through."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from config.failpoints import FAILPOINTS
from ledger.webhooks import Webhook
from tests.crash.rig import Part, Rig, eventually
from tests.crash.verdict import all_succeeded_once, no_message_was_lost
from tests.webhooks.receiver import receiving

#: Process by the failpoint's first word. A failpoint with another one fails here: nobody would reach it.
ROLES = {"intake": "intake", "relay": "relay", "worker": "work", "upkeep": "upkeep"}
#: What only happens when a webhook is told something: a test of its own, with a receiver.
DISPATCH = ("upkeep.before_dispatch", "upkeep.after_dispatch")
CASES = [(failpoint, ROLES[failpoint.partition(".")[0]], hit) for failpoint in FAILPOINTS for hit in (1, 2)]
JOBS = ["crash.call"] * 6 + ["crash.count"] * 6 + ["crash.plain"] * 5 + ["crash.chain"] * 3


@pytest.mark.parametrize(("failpoint", "role", "hit"), [case for case in CASES if case[1] in ("intake", "work")])
def test_a_process_killed_here_loses_nothing_and_doubles_nothing(rig: Rig, failpoint: str, role: str, hit: int) -> None:
    victim = rig.replace(role, f"{failpoint}:kill@{hit}")

    ids = submit_all(rig)
    rig.wait_until_final(ids)

    assert was_killed(victim), f"{failpoint} was not reached {hit} times:\n{victim.log[-2000:]}"
    all_succeeded_once(rig, ids)
    no_message_was_lost(rig)


@pytest.mark.parametrize(("failpoint", "role", "hit"), [case for case in CASES if case[1] == "upkeep" and case[0] not in DISPATCH])
def test_an_upkeep_killed_here_loses_nothing_and_doubles_nothing(rig: Rig, failpoint: str, role: str, hit: int) -> None:
    victim = rig.replace(role, f"{failpoint}:kill@{hit}")

    ids = [crash_workers_at_work(rig, victim) for _ in range(hit)]
    ids += submit_all(rig)
    rig.wait_until_final(ids)

    assert was_killed(victim), f"{failpoint} was not reached {hit} times:\n{victim.log[-2000:]}"
    all_succeeded_once(rig, ids)


@pytest.mark.parametrize(("failpoint", "hit"), [(failpoint, hit) for failpoint in DISPATCH for hit in (1, 2)])
def test_an_upkeep_killed_while_it_tells_webhooks_tells_each_end_once(rig: Rig, failpoint: str, hit: int) -> None:
    with receiving() as receiver:
        webhook = rig.add_webhook(f"{receiver.url}/hook", "job.succeeded")
        victim = rig.replace("upkeep", f"{failpoint}:kill@{hit}")
        ids = [told_alone(rig, victim, webhook) for _ in range(hit)]
        ids += submit_all(rig)
        rig.wait_until_final(ids)
        ended = {row[0] for row in rig.rows("select id from haulier.jobs where root_id = any(%s)", ids)}

        eventually(lambda: rig.tend() or deliveries_of(rig, webhook) == len(ended), 40, rig.describe)
        rig.remove_webhook(webhook)

        assert was_killed(victim), f"{failpoint} was not reached {hit} times:\n{victim.log[-2000:]}"
        told = rig.rows(
            "select subject_id, id::text, cardinality(job_ids) from haulier.webhook_deliveries where webhook_id = %s", webhook.id
        )
        assert sorted(subject for subject, _, _ in told) == sorted(ended)
        assert {jobs for _, _, jobs in told} == {1}
        sent = [(UUID(json.loads(each.body)["data"]["id"]), each.headers["webhook-id"]) for each in receiver.received]
        assert set(sent) == {(subject, message) for subject, message, _ in told}
    all_succeeded_once(rig, ids)


def told_alone(rig: Rig, upkeep: Part, webhook: Webhook) -> UUID:
    """A job whose end is a step of the dispatcher's own. Returns when it was told, or upkeep has died of it."""
    before = deliveries_of(rig, webhook)
    job = rig.submit("crash.plain", {"n": 0})
    eventually(lambda: upkeep.code is not None or deliveries_of(rig, webhook) > before, 30, rig.describe)
    return job


def deliveries_of(rig: Rig, webhook: Webhook) -> int:
    """How many have been delivered, and their jobs written off."""
    return rig.value("select count(*) from haulier.webhook_deliveries where webhook_id = %s and state = 'delivered'", webhook.id)


@pytest.mark.timeout(180)
def test_a_relay_killed_anywhere_loses_nothing_and_doubles_nothing(rig: Rig) -> None:
    """One test for all of its failpoints: what a killed relay had claimed and not published is announced again only half a minute later."""
    cases = [(failpoint, hit) for failpoint, role, hit in CASES if role == "relay"]

    ids: list[UUID] = []
    for failpoint, hit in cases:
        victim = rig.replace("relay", f"{failpoint}:kill@{hit}")
        ids += submit_all(rig, until=lambda victim=victim: was_killed(victim))
        eventually(lambda victim=victim: was_killed(victim), 20, f"{failpoint} was not reached {hit} times")
        rig.tend()
    rig.wait_until_final(ids, 60)

    assert len(cases) == 6
    all_succeeded_once(rig, ids)


def submit_all(rig: Rig, until: Callable[[], bool] = lambda: False) -> list[UUID]:
    """The first one alone, to its end (or `until`), so that every step is taken twice at least; the others together."""
    first = rig.submit(JOBS[0], {"n": 0})
    eventually(lambda: until() or rig.is_final(first), 40, rig.describe)
    with ThreadPoolExecutor(4) as clients:
        return [first, *clients.map(lambda n: rig.submit(JOBS[n], {"n": n}), range(1, len(JOBS)))]


def crash_workers_at_work(rig: Rig, upkeep: Part) -> UUID:
    """Kill a worker, its runner too, so that only upkeep can rescue what it held. Returns when the job has ended, or upkeep has died of it."""
    job = rig.submit("crash.wait", {})
    eventually(lambda: f"{job}/1" in rig.sink.arrived, 20, rig.logs)
    rig.sink.let_through(*(f"{job}/{attempt}" for attempt in range(1, 9)))
    rig.crash("work")
    eventually(lambda: upkeep.code is not None or rig.job(job)["finished_at"], 20, rig.logs)
    return job


def was_killed(victim: Part) -> bool:
    """A runner survives the worker process that the failpoint killed, and tells of it."""
    return f"code={-signal.SIGKILL}" in victim.log if victim.role == "work" else victim.code == -signal.SIGKILL
