"""The checker: a pure function of a run's files. Whoever has the files can repeat it: `python -m tests.chaos check DIR`.

A run's directory holds `config.json` (seed, versions, the classes of faults that were to come), `history/*.jsonl` (`tests.chaos.history`) and
`final/*.jsonl` (`tests.chaos.reads`).
"""

from __future__ import annotations

import bisect
import contextlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.chaos import history
from tests.chaos.history import Event

Row = dict[str, Any]

FINAL = {"succeeded", "rejected", "dead", "cancelled"}

#: Command → what it leaves when it succeeds: a row in Postgres (`row`), or a step at a service outside.
EFFECTS: Mapping[str, frozenset[str]] = {
    "crash.count": frozenset({"row"}),
    "crash.call": frozenset({"row", "charge"}),
    "crash.chain": frozenset({"row"}),
    "crash.share": frozenset({"row"}),
    "crash.many": frozenset({"row"}),
    "crash.fail": frozenset({"row"}),
    "crash.snooze": frozenset({"row"}),
    "orders.charge": frozenset({"charge"}),
    "orders.ship": frozenset({"ship"}),
}

#: (command, its end) → how many follow-ups it leaves; none where it is not named.
FOLLOW_UPS: Mapping[tuple[str, str], int] = {
    ("crash.chain", "succeeded"): 2,
    ("crash.share", "succeeded"): 1,
    ("orders.place", "succeeded"): 1,
    ("orders.charge", "succeeded"): 1,
    ("orders.charge", "rejected"): 1,
    ("orders.ship", "succeeded"): 1,
}

#: What a state may be followed by. Only a replay leaves `dead`.
EDGES: Mapping[str, frozenset[str]] = {
    "": frozenset({"scheduled", "waiting", "queued"}),
    "scheduled": frozenset({"queued", "cancelled"}),
    "waiting": frozenset({"queued", "cancelled"}),
    "queued": frozenset({"running", "cancelled"}),
    "running": frozenset({"running", "scheduled", "queued", *FINAL}),
    "dead": frozenset({"dead", "queued"}),
    "succeeded": frozenset(),
    "rejected": frozenset(),
    "cancelled": frozenset(),
}
#: Kinds of events that may stand where the state does not change.
STANDING = {"cancel_requested", "resolved"}

#: So much of what is asked for while nothing is broken must be accepted: a run that accepts nothing proves nothing.
ACCEPTED_IN_PEACE = 0.5

#: What only holds once everything is healed and all has ended.
LIVENESS = {"stuck", "left_over", "conservation"}
#: Seconds after a fault's end within which it may still be noticed: longer than a lease, and than any deadline.
NOTICED_WITHIN = 12.0
#: How lines begin that tell of the end of an outage. While a fault lasts, they are the word on the one before it.
IT_IS_OVER = ("back again", "RabbitMQ is back", "the database again", "ledger is back")


@dataclass
class Run:
    """All files of a run, read."""

    events: Sequence[Event]
    config: Row = field(default_factory=dict)
    jobs: Sequence[Row] = ()
    attempts: Sequence[Row] = ()
    timeline: Sequence[Row] = ()
    outbox: Sequence[Row] = ()
    leases: Sequence[Row] = ()
    rows: Sequence[Row] = ()
    queues: Mapping[str, int] = field(default_factory=dict)
    shop: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    #: What the product's processes logged: (Unix seconds, sentence with what it is about), by time.
    log: Sequence[tuple[float, str]] = ()


def load(directory: Path) -> Run:
    final = directory / "final"
    shop = {path.stem.removeprefix("shop_"): _lines(path) for path in final.glob("shop_*.jsonl")}
    return Run(
        events=history.read(directory / "history"),
        config=json.loads((directory / "config.json").read_text()),
        jobs=_lines(final / "jobs.jsonl"),
        attempts=_lines(final / "attempts.jsonl"),
        timeline=_lines(final / "events.jsonl"),
        outbox=_lines(final / "outbox.jsonl"),
        leases=_lines(final / "leases.jsonl"),
        rows=_lines(final / "effects.jsonl"),
        queues=json.loads((final / "queues.json").read_text()),
        shop=shop,
        log=sorted(line for path in (directory / "logs").glob("*.log") for line in _log_lines(path)),
    )


def _lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _log_lines(path: Path) -> Iterator[tuple[float, str]]:
    """A process that was killed may have torn its last line; what is no JSON was not logged by the product."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            about = entry.get("what") or entry.get("end")
            yield datetime.fromisoformat(entry["timestamp"]).timestamp(), entry["event"] + (f": {about}" if about else "")


@dataclass
class Verdict:
    """`found`: oracle → a sentence for each thing that does not hold; `counts` is what there was."""

    found: dict[str, list[str]]
    counts: dict[str, int]

    @property
    def valid(self) -> bool:
        return not any(self.found.values())


def check(run: Run) -> Verdict:
    """Every oracle over one run. Nothing is sampled."""
    asked = Asked(run.events)
    found = {
        "lost": list(lost(run, asked)),
        "stuck": list(stuck(run)),
        "ghost": list(ghosts(run, asked)),
        "phantom": list(phantoms(run, asked)),
        "duplicate_job": list(duplicate_jobs(run, asked)),
        "duplicate_effect": list(duplicate_effects(run)),
        "missing_effect": list(missing_effects(run)),
        "stray_effect": list(stray_effects(run)),
        "follow_up": list(wrong_follow_ups(run)),
        "wrong_end": list(wrong_ends(run, asked)),
        "timeline": list(broken_timelines(run)),
        "fence": list(broken_fences(run)),
        "backwards": list(reads_that_went_backwards(run)),
        "wrong_read": list(wrong_reads(run, asked)),
        "left_over": list(left_over(run)),
        "conservation": list(unbalanced(run)),
        "unnoticed": list(unnoticed(run)),
        "unsound": list(unsound(run, asked)),
    }
    if run.config.get("mode") == "safety":
        found = {name: sentences for name, sentences in found.items() if name not in LIVENESS}
    return Verdict(found, _counts(run, asked))


class Asked:
    """What clients were told of each key."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.wishes: dict[str, Event] = {}
        self.tries: Counter[str] = Counter()
        self.receipts: dict[str, set[str]] = defaultdict(set)
        self.refused: set[str] = set()
        self.unknown: set[str] = set()
        for event in events:
            if event.f != "submit" or event.key is None:
                continue
            if event.type == "invoke":
                self.wishes.setdefault(event.key, event)
                self.tries[event.key] += 1
            elif event.type == "ok":
                self.receipts[event.key].add(event.job or "")
            elif event.type == "fail":
                self.refused.add(event.key)
            else:
                self.unknown.add(event.key)

    @property
    def indeterminate(self) -> set[str]:
        """No receipt and no definite no."""
        return {key for key in self.wishes if key not in self.receipts and (key in self.unknown or key not in self.refused)}


def _by_key(run: Run) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for job in run.jobs:
        if job["key"] is not None and job["parent_id"] is None:
            found[job["key"]].append(job)
    return found


def lost(run: Run, asked: Asked) -> Iterator[str]:
    """Accepted, and not there."""
    ids = {job["id"] for job in run.jobs}
    for key, receipts in asked.receipts.items():
        for job_id in receipts - ids:
            yield f"{key} was accepted as job {job_id}, which does not exist"


def stuck(run: Run) -> Iterator[str]:
    """There, and at no end although all is healed. Follow-ups as well."""
    for job in run.jobs:
        if job["state"] not in FINAL:
            yield f"{job['command']} {job['id']} is {job['state']} after attempt {job['attempt']}"


def ghosts(run: Run, asked: Asked) -> Iterator[str]:
    """Refused, and there all the same."""
    there = _by_key(run)
    for key in asked.refused - asked.unknown:
        if key not in asked.receipts and key in there:
            yield f"{key} was refused and exists as job {there[key][0]['id']}"


def phantoms(run: Run, asked: Asked) -> Iterator[str]:
    """There, and nobody asked for it."""
    ids = {job["id"] for job in run.jobs}
    for job in run.jobs:
        if job["parent_id"] is None and not job["command"].startswith("webhooks.") and job["key"] not in asked.wishes:
            yield f"{job['command']} {job['id']} (key {job['key']}) was asked for by nobody"
        if job["parent_id"] is not None and job["parent_id"] not in ids:
            yield f"{job['command']} {job['id']} follows {job['parent_id']}, which does not exist"
    for job_id, step in _applied(run):
        if job_id not in ids:
            yield f"{step} was done for job {job_id}, which does not exist"


def duplicate_jobs(run: Run, asked: Asked) -> Iterator[str]:
    """One wish, and more than one job or receipt."""
    for key, jobs in _by_key(run).items():
        if len(jobs) > 1:
            yield f"{key} is {len(jobs)} jobs: {', '.join(job['id'] for job in jobs)}"
    for key, receipts in asked.receipts.items():
        if len(receipts) > 1:
            yield f"{key} was accepted under {len(receipts)} ids: {', '.join(sorted(receipts))}"


def _applied(run: Run) -> Counter[tuple[str, str]]:
    """(job, step) → how often it was done: rows in Postgres, and what services outside did."""
    outside = ((event.job or "", event.value["step"]) for event in run.events if event.f == "effect" and event.type == "ok")
    return Counter(outside) + Counter((row["job_id"], "row") for row in run.rows)


def duplicate_effects(run: Run) -> Iterator[str]:
    for (job_id, step), times in _applied(run).items():
        if times > 1:
            yield f"{step} of job {job_id} was done {times} times"


def missing_effects(run: Run) -> Iterator[str]:
    """Of jobs that succeeded."""
    applied = _applied(run)
    for job in run.jobs:
        for step in EFFECTS.get(job["command"], ()):
            if job["state"] == "succeeded" and not applied[job["id"], step]:
                yield f"{job['command']} {job['id']} succeeded and its {step} is not there"


def stray_effects(run: Run) -> Iterator[str]:
    """A row is written with its job's success, by the attempt that succeeded: so none without, and none by another attempt."""
    jobs = {job["id"]: job for job in run.jobs}
    for row in run.rows:
        job = jobs.get(row["job_id"])
        if job is not None and (job["state"], job["attempt"]) != ("succeeded", row["attempt"]):
            yield f"attempt {row['attempt']} of job {job['id']} left a row; the job is {job['state']} with attempt {job['attempt']}"


def wrong_follow_ups(run: Run) -> Iterator[str]:
    children = Counter(job["parent_id"] for job in run.jobs if job["parent_id"] is not None)
    for job in run.jobs:
        wanted = FOLLOW_UPS.get((job["command"], job["state"]), 0)
        if job["state"] in FINAL and children[job["id"]] != wanted:
            yield f"{job['command']} {job['id']} is {job['state']} and has {children[job['id']]} follow-ups instead of {wanted}"


def wrong_ends(run: Run, asked: Asked) -> Iterator[str]:
    """A client says beforehand how its job may end, follow-ups included: command → ends. What is not named must succeed."""
    meant = {job["id"]: _ends(asked, job["key"]) for job in run.jobs if job["parent_id"] is None}
    for job in run.jobs:
        allowed = meant.get(job["root_id"], {}).get(job["command"], ["succeeded"])
        if job["state"] in FINAL and job["state"] not in allowed:
            yield f"{job['command']} {job['id']} is {job['state']} ({job['reason']}, {job['code']}); it was to be {' or '.join(allowed)}"


def _ends(asked: Asked, key: str | None) -> Mapping[str, list[str]]:
    wish = asked.wishes.get(key or "")
    return (wish.value or {}).get("ends", {}) if wish else {}


def broken_timelines(run: Run) -> Iterator[str]:
    """From `accepted` to the state that is: numbered without a gap, one event a change, and only by ways that there are."""
    told: dict[str, list[Row]] = defaultdict(list)
    for event in run.timeline:
        told[event["job_id"]].append(event)
    for job in run.jobs:
        events = sorted(told[job["id"]], key=lambda event: event["seq"])
        if [event["seq"] for event in events] != list(range(1, job["seq"] + 1)):
            yield f"the timeline of job {job['id']} has {[event['seq'] for event in events]} of 1 to {job['seq']}"
        elif events[0]["kind"] != "accepted" or events[-1]["state"] != job["state"]:
            yield f"the timeline of job {job['id']} goes from {events[0]['kind']} to {events[-1]['state']}; the job is {job['state']}"
        else:
            yield from _forbidden(job, events)


def _forbidden(job: Row, events: Sequence[Row]) -> Iterator[str]:
    before = ""
    for event in events:
        standing = event["kind"] in STANDING and event["state"] == before
        if not standing and event["state"] not in EDGES[before]:
            yield f"job {job['id']} went from {before} to {event['state']} ({event['kind']})"
        if before == "dead" and event["state"] == "queued" and event["kind"] != "replayed":
            yield f"job {job['id']} left dead by {event['kind']}"
        before = event["state"]


def broken_fences(run: Run) -> Iterator[str]:
    """Attempts are numbered 1, 2, 3, begin one after the other, each has one end, and at most one succeeded: the last."""
    ended: dict[str, list[Row]] = defaultdict(list)
    started: dict[str, list[int]] = defaultdict(list)
    for attempt in run.attempts:
        ended[attempt["job_id"]].append(attempt)
    for event in sorted(run.timeline, key=lambda event: event["seq"]):
        if event["kind"] == "started":
            started[event["job_id"]].append(event["attempt"])
    for job in run.jobs:
        if job["state"] in FINAL:
            yield from _fences(job, sorted(ended[job["id"]], key=lambda attempt: attempt["number"]), started[job["id"]])


def _fences(job: Row, ended: Sequence[Row], started: Sequence[int]) -> Iterator[str]:
    wanted = list(range(1, job["attempt"] + 1))
    numbers = [attempt["number"] for attempt in ended]
    begun = [attempt["started_at"] for attempt in ended]
    successes = [attempt["number"] for attempt in ended if attempt["outcome"] == "succeeded"]
    if list(started) != wanted or numbers != wanted:
        yield f"job {job['id']} has begun {list(started)} and ended {numbers}; its attempt is {job['attempt']}"
    if begun != sorted(begun):
        yield f"the attempts of job {job['id']} did not begin in their order"
    if successes != ([job["attempt"]] if job["state"] == "succeeded" else []):
        yield f"job {job['id']} is {job['state']} and attempts {successes} of {job['attempt']} succeeded"


def reads_that_went_backwards(run: Run) -> Iterator[str]:
    """A read that was asked for after another one was answered must not know less: of the attempt, of the end."""
    asked_at: dict[tuple[str, str], float] = {}
    answered: dict[str, list[tuple[float, int, str]]] = defaultdict(list)
    for event in run.events:
        if event.f != "status" or event.job is None:
            continue
        if event.type == "invoke":
            asked_at[event.proc, event.key or ""] = event.mono
        elif event.type == "ok":
            since = asked_at.get((event.proc, event.key or ""), event.mono)
            now = (event.mono, event.value["attempt"], event.value["state"])
            yield from _backwards(event.job, [known for known in answered[event.job] if known[0] < since], now)
            answered[event.job].append(now)


def _backwards(job_id: str, known: Sequence[tuple[float, int, str]], now: tuple[float, int, str]) -> Iterator[str]:
    for _, attempt, state in known:
        if now[1] < attempt or (state in FINAL and now[2] != state):
            yield f"job {job_id} was seen as {state} with attempt {attempt}, and later as {now[2]} with attempt {now[1]}"
            return


def wrong_reads(run: Run, asked: Asked) -> Iterator[str]:
    """Who submitted a job is shown that job; whoever asks as another tenant is shown nothing."""
    wishes = {job: asked.wishes[key] for key, jobs in asked.receipts.items() for job in jobs if key in asked.wishes}
    for event in run.events:
        wish = wishes.get(event.job or "")
        if event.f != "status" or event.type not in {"ok", "fail"} or wish is None:
            continue
        if event.tenant != wish.tenant and event.type == "ok":
            yield f"{event.tenant} was shown job {event.job}, which is {wish.tenant}'s"
        if event.tenant == wish.tenant and (event.type == "fail" or event.value["key"] != wish.key):
            yield f"{event.tenant} asked for job {event.job} (key {wish.key}) and was told {event.value}"


def left_over(run: Run) -> Iterator[str]:
    """When every job has ended nothing waits anywhere."""
    if run.outbox:
        yield f"{len(run.outbox)} rows are in the outbox, the first of job {run.outbox[0]['job_id']}"
    if run.leases:
        yield f"{len(run.leases)} leases are held, the first of job {run.leases[0]['job_id']}"
    for queue, messages in run.queues.items():
        if messages:
            yield f"{messages} messages are in the queue {queue}"


def unbalanced(run: Run) -> Iterator[str]:
    """Stock, money and parcels, to the unit: the shop's own books, and against those of the services outside."""
    shop = run.shop
    if not shop:
        return
    orders = {order["id"]: order for order in shop["orders"]}
    yield from _stock(shop, orders)
    yield from _money(shop, orders)
    yield from _outside(run, "charge", {payment["charge_id"]: payment for payment in shop["payments"]})
    yield from _outside(run, "ship", {shipment["shipment_id"]: shipment for shipment in shop["shipments"]})


SOLD = {"paid", "shipped", "confirmed"}


def _stock(shop: Mapping[str, Sequence[Row]], orders: Mapping[str, Row]) -> Iterator[str]:
    reserved: Counter[tuple[str, str]] = Counter()
    sold: Counter[tuple[str, str]] = Counter()
    for line in shop["order_lines"]:
        state = orders[line["order_id"]]["state"]
        counted = reserved if state == "reserved" else sold if state in SOLD else Counter[tuple[str, str]]()
        counted[line["tenant"], line["sku"]] += line["quantity"]
    for product in shop["products"]:
        name = product["tenant"], product["sku"]
        has = product["available"], product["reserved"], product["sold"]
        if sum(has) != product["stock"] or has[1:] != (reserved[name], sold[name]):
            yield f"{name}: {has} of {product['stock']}; orders hold {reserved[name]} reserved and {sold[name]} sold"
    uses = Counter((order["tenant"], order["discount_code"]) for order in orders.values() if order["state"] != "cancelled")
    for discount in shop["discounts"]:
        used, cap = uses[discount["tenant"], discount["code"]], discount["max_uses"]
        if discount["uses"] != used or (cap is not None and used > cap):
            yield f"discount {discount['code']} of {discount['tenant']} has {discount['uses']} uses, {used} orders have it, cap {cap}"


def _money(shop: Mapping[str, Sequence[Row]], orders: Mapping[str, Row]) -> Iterator[str]:
    captured = {payment["order_id"]: payment["amount"] for payment in shop["payments"]}
    parcels = {shipment["order_id"] for shipment in shop["shipments"]}
    for order in orders.values():
        due = order["total"] if order["state"] in SOLD else 0
        if captured.get(order["id"], 0) != due:
            yield f"order {order['id']} is {order['state']}, costs {order['total']} and {captured.get(order['id'], 0)} were captured"
        if (order["id"] in parcels) != (order["state"] in {"shipped", "confirmed"}):
            yield f"order {order['id']} is {order['state']} and {'has a' if order['id'] in parcels else 'has no'} parcel"


def _outside(run: Run, step: str, ours: Mapping[str, Row]) -> Iterator[str]:
    """What the service did for orders, against what was booked."""
    done = [event.value for event in run.events if event.f == "effect" and event.type == "ok" and event.value["step"] == step]
    theirs = {value["id"]: value for value in done if "reference" in value}
    for name in theirs.keys() | ours.keys():
        there, here = theirs.get(name), ours.get(name)
        if there is None or here is None:
            yield f"{step} {name} is {'booked here and not known' if there is None else 'known there and not booked here'}"
        elif (there["reference"], there.get("amount")) != (here["order_id"], here.get("amount")):
            yield f"{step} {name} is {there} there and {here} here"


def unnoticed(run: Run) -> Iterator[str]:
    """No silent error: of each fault that is expected to be noticed, at least one line of the product's logs tells."""
    since: dict[int, float] = {}
    for event in run.events:
        if event.f != "fault":
            continue
        if event.type == "invoke":
            since[event.value["fault"]] = event.wall
        wanted = run.config.get("noticed", {}).get(event.key)
        if event.type == "ok" and isinstance(wanted, list):
            began, ended = since[event.value["fault"]], event.wall
            first = bisect.bisect_left(run.log, (began, ""))
            last = bisect.bisect_right(run.log, (ended + NOTICED_WITHIN, ""))
            lines = [(sentence, at >= ended) for at, sentence in run.log[first:last]]
            if not any(part in sentence and (over or not part.startswith(IT_IS_OVER)) for sentence, over in lines for part in wanted):
                yield f"{event.key}, the fault {event.value['fault']}: no log line says any of {', '.join(wanted)}"


def unsound(run: Run, asked: Asked) -> Iterator[str]:
    """What would make the other oracles worth nothing."""
    if not asked.wishes:
        yield "nothing was asked for"
    windows = _windows(run.events)
    peaceful = [key for key, wish in asked.wishes.items() if not _in_a_fault(wish.mono, windows)]
    accepted = sum(1 for key in peaceful if key in asked.receipts)
    if accepted < ACCEPTED_IN_PEACE * len(peaceful):
        yield f"{accepted} of {len(peaceful)} were accepted while nothing was broken"
    happened = {event.key for event in run.events if event.f == "fault" and event.type == "ok"}
    for name in run.config.get("classes", ()):
        if name not in happened:
            yield f"the fault {name} was to come and never did"
    last: dict[str, Event] = {}
    for event in sorted(run.events, key=lambda event: event.i):
        before = last.get(event.proc)
        if before is not None and (event.i != before.i + 1 or event.mono < before.mono):
            yield f"the history of {event.proc} is broken after its line {before.i}"
        last[event.proc] = event


def _windows(events: Sequence[Event]) -> list[tuple[float, float]]:
    """From a fault's start to its stop; to the end of time where there is none."""
    open_since: dict[str, float] = {}
    windows: list[tuple[float, float]] = []
    for event in events:
        if event.f == "fault" and event.type == "invoke":
            open_since[event.value["fault"]] = event.mono
        elif event.f == "fault" and event.value["fault"] in open_since:
            windows.append((open_since.pop(event.value["fault"]), event.mono))
    return [*windows, *((since, float("inf")) for since in open_since.values())]


def _in_a_fault(at: float, windows: Sequence[tuple[float, float]]) -> bool:
    return any(since <= at <= until for since, until in windows)


def _counts(run: Run, asked: Asked) -> dict[str, int]:
    there = _by_key(run)
    faults = [event for event in run.events if event.f == "fault" and event.type == "ok"]
    effects = [event for event in run.events if event.f == "effect"]
    outcomes = Counter(attempt["outcome"] for attempt in run.attempts)
    return {
        "asked": len(asked.wishes),
        "tries": asked.tries.total(),
        "acknowledged": len(asked.receipts),
        "refused": len(asked.refused - asked.receipts.keys()),
        "indeterminate": len(asked.indeterminate),
        "recovered": sum(1 for key in asked.indeterminate if key in there),
        "reads": sum(1 for event in run.events if event.f == "status" and event.type == "ok"),
        "jobs": len(run.jobs),
        "attempts": len(run.attempts),
        "rescued": outcomes["rescued"],
        "failed": outcomes["failed"],
        "effects": sum(1 for event in effects if event.type == "ok") + len(run.rows),
        "repeated_calls": sum(1 for event in effects if event.type == "info"),
        "dead": sum(1 for job in run.jobs if job["state"] == "dead"),
        "faults": len(faults),
        "classes": len({event.key for event in faults}),
    }
