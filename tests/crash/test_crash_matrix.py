"""Every failpoint there is kills its process with SIGKILL when it is reached for the first time, and its successor's at the second, under load.

A new failpoint is in the matrix by itself: it is expected on the way of every twenty jobs, unless it is named in a test of its own below.
"""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest

from config.failpoints import FAILPOINTS
from config.transport import topology
from config.transport.message import Announcement, Message, encode
from ledger.webhooks import Webhook
from tests.crash.commands import QUEUE
from tests.crash.rig import ROOT, Rig, eventually
from tests.crash.verdict import all_succeeded_once, no_message_was_lost
from tests.webhooks.receiver import receiving

#: Process by the failpoint's first word. A failpoint with another one fails here: nobody would reach it.
ROLES = {"intake": "intake", "relay": "relay", "worker": "work", "upkeep": "upkeep"}

#: What only happens when …
BATCH = ("intake.before_batch_commit", "intake.after_batch_commit")
REPLAY = ("intake.after_replay",)
TOGETHER = ("worker.before_complete_together", "worker.after_complete_together")
RESCUE = ("upkeep.after_rescue",)
WEBHOOK = ("worker.after_post", "upkeep.before_dispatch", "upkeep.after_dispatch")
DEAD_LETTER = ("upkeep.after_dead_letter",)
ON_THE_WAY = [name for name in FAILPOINTS if name not in {*BATCH, *REPLAY, *TOGETHER, *RESCUE, *WEBHOOK, *DEAD_LETTER}]

JOBS = ["crash.call"] * 5 + ["crash.count"] * 5 + ["crash.plain"] * 4 + ["crash.snooze"] * 3 + ["crash.chain"] * 3
#: Which job comes first, alone, where a call is not what reaches the failpoint.
FIRST = {"worker.before_complete_many": "crash.plain", "worker.after_complete_many": "crash.plain"} | {
    "worker.before_settle": "crash.snooze",
    "worker.after_settle": "crash.snooze",
}


def test_every_failpoint_is_in_the_table_and_in_one_place_of_the_product():
    """So that each way is crashed, and not only the one that happens to be taken first."""
    reached = Counter(name for package in ("config", "ledger", "pipelines", "producers", "workers") for name in reaches(ROOT / package))

    assert reached == Counter(FAILPOINTS)


def reaches(package: Path) -> list[str]:
    """The names in all calls of `reach` below this directory."""
    calls = [node for file in package.rglob("*.py") for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    named = [call for call in calls if getattr(call.func, "id", getattr(call.func, "attr", "")) == "reach"]
    return [ast.literal_eval(call.args[0]) for call in named]


@pytest.mark.parametrize("failpoint", ON_THE_WAY)
def test_a_process_killed_here_loses_nothing_and_doubles_nothing(rig: Rig, failpoint: str) -> None:
    role = arm(rig, failpoint)

    ids = kill_twice(rig, failpoint, lambda died: submit_all(rig, FIRST.get(failpoint, JOBS[0]), died))
    rig.wait_until_final(ids, 60)

    all_succeeded_once(rig, ids)
    if role in ("intake", "work"):
        no_message_was_lost(rig)


@pytest.mark.parametrize("failpoint", BATCH)
def test_an_intake_killed_while_it_takes_a_batch_takes_it_once(rig: Rig, failpoint: str) -> None:
    arm(rig, failpoint)

    ids = kill_twice(rig, failpoint, lambda _: rig.submit_batch(*((command, {"n": 0}) for command in JOBS[::2])))
    rig.wait_until_final(ids)

    all_succeeded_once(rig, ids)


@pytest.mark.parametrize("failpoint", REPLAY)
def test_an_intake_killed_while_it_replays_a_dead_letter_replays_it_once(rig: Rig, failpoint: str) -> None:
    """Whoever asks again is told that it is done: not dead any more."""
    arm(rig, failpoint)

    def die_and_replay(_: object) -> list[UUID]:
        job = rig.submit("crash.fail", {"times": 1}, max_failures=1)
        eventually(lambda: rig.job(job)["state"] == "dead", 20, rig.describe)
        status, _ = rig.post(f"/v1/dead-letters/{job}/replay", {"reason": "it was told to fail"}, until=(409,))
        assert status in (202, 409)
        return [job]

    ids = kill_twice(rig, failpoint, die_and_replay)
    rig.wait_until_final(ids)

    assert {tuple(rig.kinds(job)) for job in ids} == {("accepted", "started", "died", "replayed", "started", "succeeded")}
    audited = rig.rows("select target, count(*) from haulier.audit where action = 'job.replay' group by 1")
    assert dict(audited) == {str(job): 1 for job in ids}
    all_succeeded_once(rig, ids)


@pytest.mark.parametrize("failpoint", TOGETHER)
def test_a_worker_killed_with_a_shared_transaction_open_loses_nothing_and_doubles_nothing(rig: Rig, failpoint: str) -> None:
    arm(rig, failpoint)

    ids = kill_twice(rig, failpoint, lambda _: announce_sets(rig))
    rig.wait_until_final(ids)

    all_succeeded_once(rig, ids)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("failpoint", RESCUE)
def test_an_upkeep_killed_while_it_rescues_loses_nothing_and_doubles_nothing(rig: Rig, failpoint: str) -> None:
    arm(rig, failpoint)

    ids = kill_twice(rig, failpoint, lambda died: [crash_workers_at_work(rig, died)])
    ids += submit_all(rig, JOBS[0], lambda: False)
    rig.wait_until_final(ids)

    all_succeeded_once(rig, ids)


@pytest.mark.parametrize("failpoint", WEBHOOK)
def test_a_process_killed_while_webhooks_are_told_tells_each_end_under_one_id(rig: Rig, failpoint: str) -> None:
    with receiving() as receiver, rig.webhook(f"{receiver.url}/hook", "job.succeeded") as webhook:
        arm(rig, failpoint)
        ids = kill_twice(rig, failpoint, lambda died: [told_alone(rig, died, webhook)])
        with ThreadPoolExecutor(4) as clients:
            ids += clients.map(lambda n: rig.submit(JOBS[n], {"n": n}), range(0, len(JOBS), 2))
        rig.wait_until_final(ids)
        ended = {row[0] for row in rig.rows("select id from haulier.jobs where root_id = any(%s)", ids)}

        eventually(lambda: rig.tend() or deliveries_of(rig, webhook) == len(ended), 40, rig.describe)

    told = rig.rows("select subject_id, id::text, cardinality(job_ids) from haulier.webhook_deliveries where webhook_id = %s", webhook.id)
    assert sorted(subject for subject, _, _ in told) == sorted(ended)
    assert {jobs for _, _, jobs in told} == {1}
    sent = [(UUID(json.loads(each.body)["data"]["id"]), each.headers["webhook-id"]) for each in receiver.received]
    assert set(sent) == {(subject, message) for subject, message, _ in told}
    assert len(sent) - len(set(sent)) >= (2 if failpoint == "worker.after_post" else 0)  # each victim had sent one whose answer was lost
    all_succeeded_once(rig, ids)


@pytest.mark.parametrize("failpoint", DEAD_LETTER)
def test_an_upkeep_killed_between_recording_a_dead_message_and_acknowledging_it_records_it_once(rig: Rig, failpoint: str) -> None:
    arm(rig, failpoint)
    dead = topology.dead_name(QUEUE)

    def give_up(died: Callable[[], bool]) -> list[UUID]:
        job = rig.submit("crash.count", {"n": 0})
        named = encode(Message(QUEUE, (Announcement(job, 1, None),)))
        rig.publish(b"nonsense", named, named, queue=dead)
        eventually(died, 30, rig.describe)
        return [job]

    ids = kill_twice(rig, failpoint, give_up)
    rig.wait_until_final(ids)
    eventually(lambda: rig.tend() or rig.ready_messages(dead) == 0, 20, rig.describe)

    [(body, times)] = rig.rows("select body, times from haulier.orphan_messages")
    assert (bytes(body), times >= len(ids)) == (b"nonsense", True)
    all_succeeded_once(rig, ids)


def arm(rig: Rig, failpoint: str) -> str:
    """A process of its role is to die when it is reached for the first time, and the one that takes its place at the second."""
    role = ROLES[failpoint.partition(".")[0]]
    rig.replace(role, f"{failpoint}:kill@1", f"{failpoint}:kill@2")
    return role


def kill_twice(rig: Rig, failpoint: str, provoke: Callable[[Callable[[], bool]], Sequence[UUID]]) -> list[UUID]:
    """Provoke (which is given a way to see whether its victim has died) until both have died of it. Returns the jobs that were submitted."""
    role = ROLES[failpoint.partition(".")[0]]
    ids: list[UUID] = []
    for _ in range(4):
        before = rig.deaths(role)
        if before == 2:
            break
        new = provoke(lambda before=before: rig.deaths(role) > before)
        ids += new
        eventually(lambda before=before, new=new: rig.deaths(role) > before or all(map(rig.is_final, new)), 60, rig.describe)
    assert rig.deaths(role) == 2, f"{failpoint} was not reached for the first time, or not for the second:\n{rig.logs()}"
    return ids


def submit_all(rig: Rig, first: str, died: Callable[[], bool]) -> list[UUID]:
    """The first one alone, to its end or its process's, so that every step is taken twice at least; the others together."""
    alone = rig.submit(first, {"n": 0})
    eventually(lambda: died() or rig.is_final(alone), 40, rig.describe)
    with ThreadPoolExecutor(4) as clients:
        return [alone, *clients.map(lambda n: rig.submit(JOBS[n], {"n": n}), range(1, len(JOBS)))]


def announce_sets(rig: Rig) -> list[UUID]:
    """Two messages of many jobs, whose transactions those share. The relay looks away meanwhile: it would announce them one by one."""
    (relay,) = rig.started("relay")
    relay.pause()
    sets = [[rig.write(command, {"n": n}) for n in range(10)] for command in ("crash.share", "crash.many")]
    for each in sets:
        rig.announce(*((job, 1) for job in each))
    ids = [job for each in sets for job in each]
    eventually(lambda: rig.value("select count(*) from haulier.jobs where id = any(%s) and attempt = 0", ids) == 0, 20, rig.describe)
    relay.go_on()
    return ids


def crash_workers_at_work(rig: Rig, upkeep_died: Callable[[], bool]) -> UUID:
    """Kill a worker, its runner too, so that only upkeep can rescue what it held. Returns when the job has ended, or upkeep has died of it.
    Not before the ones before it have ended: a suspect that runs alone, and whose process dies again, is blamed for it.
    """
    rig.wait_until_final(list(rig.accepted))
    job = rig.submit("crash.wait", {})
    eventually(lambda: f"{job}/1" in rig.sink.arrived, 20, rig.logs)
    rig.sink.let_through(*(f"{job}/{attempt}" for attempt in range(1, 9)))
    rig.crash("work")
    eventually(lambda: upkeep_died() or rig.job(job)["finished_at"], 20, rig.logs)
    return job


def told_alone(rig: Rig, died: Callable[[], bool], webhook: Webhook) -> UUID:
    """A job whose end is a step of the dispatcher's own. Returns when it was told, or who tells it has died of it."""
    job = rig.submit("crash.plain", {"n": 0})
    wanted = "select exists (select from haulier.webhook_deliveries where webhook_id = %s and subject_id = %s and state = 'delivered')"
    eventually(lambda: died() or rig.value(wanted, webhook.id, job), 30, rig.describe)
    return job


def deliveries_of(rig: Rig, webhook: Webhook) -> int:
    """How many have been delivered, and their jobs written off."""
    return rig.value("select count(*) from haulier.webhook_deliveries where webhook_id = %s and state = 'delivered'", webhook.id)
