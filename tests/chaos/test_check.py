"""Every oracle of the checker fires on a history in which its promise is broken, and on no other; and none fires on a whole one."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.chaos import history, reads
from tests.chaos.check import Run, check, load
from tests.chaos.history import Event, Writer

COUNT, CALL, CHAIN, PLACE, CHARGE, SHIP, CONFIRM = "c1", "c2", "c3", "o1", "o2", "o3", "o4"
FOLLOWS = {"f1": CHAIN, "f2": CHAIN, CHARGE: PLACE, SHIP: CHARGE, CONFIRM: SHIP}
COMMANDS = {
    COUNT: "crash.count", CALL: "crash.call", CHAIN: "crash.chain", "f1": "crash.count", "f2": "crash.count",
    PLACE: "orders.place", CHARGE: "orders.charge", SHIP: "orders.ship", CONFIRM: "orders.confirm",
}  # fmt: skip


def whole() -> Run:
    """Four wishes and all that they lead to; one was repeated after a lost answer, one attempt was rescued, one fault came."""
    roots = [COUNT, CALL, CHAIN, PLACE]
    asked = [("invoke", "submit", {"key": f"key-{job}", "tenant": "acme"}) for job in roots]
    told = [("ok", "submit", {"key": f"key-{job}", "tenant": "acme", "job": job}) for job in roots]
    steps: list[tuple[str, str, dict[str, Any]]] = [
        *asked,
        ("info", "submit", {"key": "key-c1"}),
        ("invoke", "submit", {"key": "key-c1"}),
        *told,
        ("invoke", "submit", {"key": "refused"}),
        ("fail", "submit", {"key": "refused"}),
        ("invoke", "fault", {"key": "kill", "value": {"fault": "1"}}),
        ("ok", "fault", {"key": "kill", "value": {"fault": "1"}}),
        ("ok", "effect", {"key": "c2:charge:0", "job": CALL, "value": {"step": "charge"}}),
        ("info", "effect", {"key": "c2:charge:0", "job": CALL, "value": {"step": "charge"}}),
        ("ok", "effect", {"job": CHARGE, "value": {"step": "charge", "id": "ch_1", "reference": PLACE, "amount": 1000}}),
        ("ok", "effect", {"job": SHIP, "value": {"step": "ship", "id": "sh_1", "reference": PLACE}}),
        ("invoke", "status", {"key": "1", "job": COUNT}),
        ("ok", "status", {"key": "1", "job": COUNT, "value": {"state": "running", "attempt": 1, "key": "key-c1"}, "tenant": "acme"}),
        ("invoke", "status", {"key": "2", "job": COUNT}),
        ("ok", "status", {"key": "2", "job": COUNT, "value": {"state": "succeeded", "attempt": 1, "key": "key-c1"}, "tenant": "acme"}),
    ]
    jobs = [job_row(job, command) for job, command in COMMANDS.items()]
    jobs[1] |= {"attempt": 2, "seq": 5}
    return Run(
        events=[Event(i, float(i), float(i), "clients", kind, f, **more) for i, (kind, f, more) in enumerate(steps)],  # type: ignore[arg-type]
        config={"classes": ["kill"], "noticed": {"kill": ["is gone"]}},
        log=[(14.5, "a worker is gone")],
        jobs=jobs,
        attempts=[ended(CALL, 1, "rescued"), ended(CALL, 2), *(ended(job, 1) for job in COMMANDS if job != CALL)],
        timeline=[event for job in jobs for event in timeline(job["id"], job["attempt"])],
        rows=[{"job_id": job, "attempt": 2 if job == CALL else 1} for job in (COUNT, CALL, CHAIN, "f1", "f2")],
        queues={"haulier.crash.v1": 0},
        shop={
            "products": [{"tenant": "acme", "sku": "MUG", "stock": 10, "available": 8, "reserved": 0, "sold": 2}],
            "discounts": [{"tenant": "acme", "code": "TEN", "uses": 1, "max_uses": 1}],
            "orders": [{"id": PLACE, "tenant": "acme", "state": "confirmed", "total": 1000, "discount_code": "TEN"}],
            "order_lines": [{"order_id": PLACE, "tenant": "acme", "sku": "MUG", "quantity": 2}],
            "payments": [{"order_id": PLACE, "charge_id": "ch_1", "amount": 1000}],
            "shipments": [{"order_id": PLACE, "shipment_id": "sh_1"}],
        },
    )


def job_row(job: str, command: str) -> dict[str, Any]:
    parent = FOLLOWS.get(job)
    root = job
    while root in FOLLOWS:
        root = FOLLOWS[root]
    key = None if parent else f"key-{job}"
    return {
        "id": job, "tenant": "acme", "root_id": root, "parent_id": parent, "command": command, "state": "succeeded", "reason": None,
        "code": None, "attempt": 1, "seq": 3, "key": key,
    }  # fmt: skip


def ended(job: str, number: int, outcome: str = "succeeded") -> dict[str, Any]:
    return {"job_id": job, "number": number, "outcome": outcome, "started_at": float(number), "finished_at": number + 0.5}


def timeline(job: str, attempts: int) -> list[dict[str, Any]]:
    told = [("accepted", "queued", 0)]
    for attempt in range(1, attempts + 1):
        told += [("started", "running", attempt), ("rescued", "queued", attempt)]
    told[-1] = ("succeeded", "succeeded", attempts)
    return [{"job_id": job, "seq": seq, "kind": kind, "state": state, "attempt": n} for seq, (kind, state, n) in enumerate(told, 1)]


def of(rows: Any, job: str, **wanted: Any) -> Any:
    return next(row for row in rows if row.get("id", row.get("job_id")) == job and wanted.items() <= row.items())


def without(rows: Any, job: str) -> Any:
    return [row for row in rows if row.get("id", row.get("job_id")) != job]


def remove_whole_job(run: Run) -> None:
    run.jobs, run.attempts, run.timeline = without(run.jobs, COUNT), without(run.attempts, COUNT), without(run.timeline, COUNT)
    run.rows = without(run.rows, COUNT)


def leave_running(run: Run) -> None:
    of(run.jobs, CONFIRM).update(state="running", seq=2)
    run.attempts = without(run.attempts, CONFIRM)
    run.timeline = [event for event in run.timeline if (event["job_id"], event["seq"]) != (CONFIRM, 3)]


def add_job(run: Run, key: str) -> None:
    run.jobs = [*run.jobs, job_row("new", "crash.plain") | {"key": key}]
    run.attempts = [*run.attempts, ended("new", 1)]
    run.timeline = [*run.timeline, *timeline("new", 1)]


def end_as(run: Run, job: str, state: str) -> None:
    of(run.jobs, job)["state"] = state
    of(run.attempts, job)["outcome"] = state
    of(run.timeline, job, seq=3).update(state=state, kind=state)


def add_event(run: Run, kind: str, f: str, **more: Any) -> None:
    at = len(run.events)
    run.events = [*run.events, Event(at, float(at), float(at), "clients", kind, f, **more)]  # type: ignore[arg-type]


def drop_effect(run: Run) -> None:
    run.rows = without(run.rows, COUNT)


def add_follow_up(run: Run) -> None:
    add_job(run, "")
    of(run.jobs, "new").update(parent_id=COUNT, root_id=COUNT, key=None)


def swap_events(run: Run) -> None:
    """Started before it was accepted."""
    accepted, started = of(run.timeline, COUNT, seq=1), of(run.timeline, COUNT, seq=2)
    accepted["seq"], started["seq"] = 2, 1


def leave_the_end(run: Run) -> None:
    """It began again after it had succeeded; no attempt is missing."""
    of(run.jobs, COUNT).update(seq=5, attempt=2)
    of(run.attempts, COUNT)["outcome"] = "failed"
    run.attempts = [*run.attempts, ended(COUNT, 2)]
    more: list[tuple[str, str, int]] = [("started", "running", 2), ("succeeded", "succeeded", 2)]
    run.timeline = [
        *run.timeline,
        *({"job_id": COUNT, "seq": seq, "kind": kind, "state": state, "attempt": n} for seq, (kind, state, n) in enumerate(more, 4)),
    ]
    of(run.rows, COUNT)["attempt"] = 2


def break_the_writer(run: Run) -> None:
    run.events = [event for event in run.events if event.i != 5]


def accept_little(run: Run) -> None:
    for n in range(20):
        add_event(run, "invoke", "submit", key=f"more-{n}")
        add_event(run, "fail", "submit", key=f"more-{n}")


CORRUPTIONS: list[tuple[str, str, Callable[[Run], object]]] = [
    ("lost", "an accepted job is gone", remove_whole_job),
    ("stuck", "a follow-up never ends", leave_running),
    ("ghost", "what was refused ran", lambda run: add_job(run, "refused")),
    ("phantom", "nobody asked for it", lambda run: add_job(run, "nobody's")),
    ("phantom", "a charge for no job", lambda run: add_event(run, "ok", "effect", job="nobody", value={"step": "charge"})),
    ("duplicate_job", "one key, two jobs", lambda run: add_job(run, "key-c1")),
    ("duplicate_job", "one key, two receipts", lambda run: add_event(run, "ok", "submit", key="key-c1", job="f1")),
    ("duplicate_effect", "two rows", lambda run: run.rows.append({"job_id": COUNT, "attempt": 1})),  # type: ignore[attr-defined]
    ("duplicate_effect", "called twice", lambda run: add_event(run, "ok", "effect", job=CALL, value={"step": "charge"})),
    ("missing_effect", "no row", drop_effect),
    ("stray_effect", "a row of an attempt that was rescued", lambda run: of(run.rows, CALL).update(attempt=1)),
    ("follow_up", "one too many", add_follow_up),
    ("wrong_end", "dead, and nobody said it might be", lambda run: end_as(run, CONFIRM, "dead")),
    ("timeline", "a gap", lambda run: of(run.timeline, COUNT, seq=2).update(seq=7)),
    ("timeline", "a wrong beginning", swap_events),
    ("timeline", "it tells another end", lambda run: of(run.timeline, COUNT, seq=3).update(state="rejected")),
    ("timeline", "out of a final state", leave_the_end),
    ("fence", "an attempt without an end", lambda run: setattr(run, "attempts", without(run.attempts, CONFIRM))),
    ("fence", "a number twice", lambda run: of(run.attempts, CALL, number=2).update(number=1)),
    ("fence", "the second began before the first", lambda run: of(run.attempts, CALL, number=2).update(started_at=0.5)),
    ("fence", "two successes", lambda run: of(run.attempts, CALL, number=1).update(outcome="succeeded")),
    ("backwards", "an end forgotten", lambda run: read_again(run, "running", 1)),
    ("backwards", "an attempt forgotten", lambda run: read_again(run, "succeeded", 0)),
    ("wrong_read", "another tenant's job", lambda run: read_as(run, "globex", "ok", "key-c1")),
    ("wrong_read", "another job", lambda run: read_as(run, "acme", "ok", "key-c2")),
    ("wrong_read", "no job", lambda run: read_as(run, "acme", "fail", "")),
    ("left_over", "an outbox row", lambda run: setattr(run, "outbox", [{"job_id": COUNT}])),
    ("left_over", "a lease", lambda run: setattr(run, "leases", [{"job_id": COUNT}])),
    ("left_over", "a message", lambda run: setattr(run, "queues", {"haulier.crash.v1": 1})),
    ("conservation", "stock that nobody has", lambda run: run.shop["products"][0].update(available=7)),
    ("conservation", "sold more than ordered", lambda run: run.shop["products"][0].update(available=7, sold=3)),
    ("conservation", "paid and not captured", lambda run: run.shop["orders"][0].update(total=999)),
    ("conservation", "booked and not taken", lambda run: run.shop["payments"][0].update(charge_id="ch_2")),
    ("conservation", "booked another amount", lambda run: change_charge(run, amount=1)),
    ("conservation", "paid and no parcel", lambda run: run.shop["orders"][0].update(state="paid")),
    ("conservation", "a discount used too often", lambda run: run.shop["discounts"][0].update(uses=2)),
    ("unnoticed", "nobody said anything of a fault", lambda run: setattr(run, "log", [(100.0, "a worker is gone")])),
    ("unnoticed", "only the outage before is told, while the fault lasts", lambda run: tell_that_it_is_over(run, 12.5)),
    ("unsound", "a fault that never came", lambda run: run.config["classes"].append("wipe")),
    ("unsound", "a torn history", break_the_writer),
    ("unsound", "hardly anything accepted", accept_little),
]


def tell_that_it_is_over(run: Run, at: float) -> None:
    run.config["noticed"]["kill"] = ["back again: RabbitMQ"]
    run.log = [(at, "back again: RabbitMQ")]


def read_again(run: Run, state: str, attempt: int) -> None:
    add_event(run, "invoke", "status", key="3", job=COUNT)
    add_event(run, "ok", "status", key="3", job=COUNT, tenant="acme", value={"state": state, "attempt": attempt, "key": "key-c1"})


def read_as(run: Run, tenant: str, kind: str, key: str) -> None:
    add_event(run, "invoke", "status", key="3", job=COUNT)
    add_event(run, kind, "status", key="3", job=COUNT, tenant=tenant, value={"state": "succeeded", "attempt": 1, "key": key})


def change_charge(run: Run, **change: Any) -> None:
    run.events = [replace(e, value={**e.value, **change}) if e.f == "effect" and e.job == CHARGE else e for e in run.events]


@pytest.mark.parametrize(("oracle", "what", "corrupt"), CORRUPTIONS, ids=[f"{oracle}: {what}" for oracle, what, _ in CORRUPTIONS])
def test_each_oracle_fires_on_what_it_is_for_and_no_other_does(oracle: str, what: str, corrupt: Callable[[Run], object]) -> None:
    run = deepcopy(whole())

    corrupt(run)
    verdict = check(run)

    assert [name for name, sentences in verdict.found.items() if sentences] == [oracle], verdict.found


def test_the_end_of_an_outage_that_two_faults_made_is_notice_of_the_second() -> None:
    run = deepcopy(whole())
    tell_that_it_is_over(run, 13.5)

    assert check(run).valid


def test_a_whole_run_is_valid_and_counted() -> None:
    verdict = check(whole())

    assert verdict.valid, verdict.found
    assert verdict.counts["asked"] == 5
    assert verdict.counts["acknowledged"] == 4
    assert verdict.counts["rescued"] == 1
    assert verdict.counts["repeated_calls"] == 1


def test_every_oracle_is_shown_to_fire() -> None:
    assert {oracle for oracle, _, _ in CORRUPTIONS} == set(check(whole()).found)


def test_an_end_that_was_announced_is_no_wrong_end() -> None:
    run = whole()
    end_as(run, CONFIRM, "rejected")
    run.events = [replace(e, value={"ends": {"orders.confirm": ["rejected"]}}) if e.key == "key-o1" else e for e in run.events]

    assert check(run).valid


def test_what_nobody_knows_may_be_there_or_not() -> None:
    run = whole()
    for key in ("unknown-and-there", "unknown-and-gone"):
        add_event(run, "invoke", "submit", key=key)
        add_event(run, "info", "submit", key=key)
    add_job(run, "unknown-and-there")
    verdict = check(run)

    assert verdict.valid
    assert (verdict.counts["indeterminate"], verdict.counts["recovered"]) == (2, 1)


def test_a_history_reads_as_it_was_written_and_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    clients, sinks = Writer(tmp_path, "clients"), Writer(tmp_path, "sinks")
    written = [clients.write("invoke", "submit", key="k", tenant="acme", value={"n": 1}), sinks.write("ok", "effect", job="j")]
    for writer in (clients, sinks):
        writer.close()
    with (tmp_path / "sinks.jsonl").open("a") as file:
        file.write('{"i": 1, "mono": 5')

    assert history.read(tmp_path) == written


def test_a_run_is_read_from_its_files_alone(tmp_path: Path, database_url: str) -> None:
    """What a real ledger writes is what the checker reads."""
    run = whole()
    (tmp_path / "history").mkdir()
    (tmp_path / "history" / "clients.jsonl").write_text("".join(json.dumps(asdict(event)) + "\n" for event in run.events))
    (tmp_path / "config.json").write_text(json.dumps(run.config))
    with psycopg.connect(database_url) as tx:
        tx.execute("insert into haulier.tenants (slug, name) values ('acme', 'Acme')")
        tx.execute("insert into haulier.commands (name, queue, max_failures, fields) values ('orders.confirm', 'orders', 8, '{}')")
        tx.execute('select haulier.submit(\'orders.confirm\', \'{}\', \'{"tenant": "acme", "labels": {"key": "key-c1"}}\')')

    reads.write(database_url, tmp_path / "final", {"haulier.orders.v1": 1})
    found = load(tmp_path)

    assert list(found.events) == list(run.events)
    assert [(job["key"], job["state"], job["tenant"], job["seq"]) for job in found.jobs] == [("key-c1", "queued", "acme", 1)]
    assert [(event["kind"], event["seq"]) for event in found.timeline] == [("accepted", 1)]
    assert len(found.outbox) == 1
    assert check(found).found["stuck"]
    assert len(check(found).found["lost"]) == 4
