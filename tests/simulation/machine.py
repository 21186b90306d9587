"""The machine: relay, broker, workers and upkeep as rules that take one step each, in any order, with the ledger's own functions on a real Postgres.

The broker is a list of messages: lost, doubled, late, in any order, by choice. Beside it stands a model of a few lines, which says before each step what
must come of it. What takes part in a step is drawn as a number, so that a failure can be told, and kept, as a list of calls.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from config.ids import uuid7
from config.transport.message import Announcement, Message, encode
from console.servers.postgres import PostgresServer
from ledger import attempts, calls, dead_letters, jobs, keys, orphans, outbox, workers
from ledger.attempts import Begun, End, Lease, LeaseLostError, Success
from ledger.connection import opening, send
from ledger.workers import Lapsed
from pipelines.command import Command, Handler, Rejected, Retry, Snooze, handles
from pipelines.load import describe
from pipelines.run import Run
from tests.servers import create_from, drop
from tests.simulation.invariants import violations
from workers import outcome, recovery
from workers.outcome import CutShortError, NeedsReviewError
from workers.slots import ANY

QUEUE = "sim"
LEASE = 600.0
#: The step of the one call that a job may make.
PAY = "pay"
FINAL = {"succeeded", "rejected", "dead", "cancelled"}
EFFECTS = "create table effects (job_id uuid not null, attempt integer not null)"


class Step(Command):
    command_name = "sim.step"
    example: ClassVar[dict[str, Any]] = {}


class After(Command):
    """What a step names as the follow-up of its bad ends."""

    command_name = "sim.after"
    example: ClassVar[dict[str, Any]] = {}


class Spoilt(Exception):
    """Buries the job at once."""


def nothing(command: Command, run: Run) -> None:
    """Handlers are not called here: their ends are drawn."""


RETRY = Retry(max_failures=3, backoff=lambda _failures: 60.0)
HANDLERS: dict[str, Handler] = {
    handler.name: handler
    for handler in (
        handles(Step, queue=QUEUE, retry=RETRY, buries=(Spoilt,), on_rejected=After, on_dead=After)(nothing),
        handles(After, queue=QUEUE, retry=RETRY, buries=(Spoilt,))(nothing),
    )
}
TIMEOUTS = dict.fromkeys(HANDLERS, 30.0)

#: How an attempt may end other than by success.
ENDS: dict[str, object] = {
    "rejected": Rejected("no"),
    "snoozed": Snooze(60),
    "failed": ValueError("failed"),
    "buried": Spoilt("for good"),
    "interrupted": CutShortError("the database went away"),
}


@dataclass
class Known:
    """The model of a job. `holder`: the attempt and worker that may write its end; `calls`: how its call stands, by generation."""

    command: str
    state: str
    attempt: int = 0
    failures: int = 0
    solo: bool = False
    holder: tuple[int, UUID] | None = None
    cancel: bool = False
    over: bool = False
    effects: int = 0
    generation: int = 0
    calls: dict[int, str] = field(default_factory=dict[int, str])


@dataclass
class World:
    """What a backup of the ledger takes with it."""

    jobs: dict[UUID, Known] = field(default_factory=dict[UUID, Known])
    keys: dict[str, UUID] = field(default_factory=dict[str, UUID])


#: Copies of a database are made and dropped by the dozen here, and no machine is switched off.
QUICK = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


def machine_on(server: PostgresServer, template: str) -> type[Machine]:
    """What Hypothesis makes one of for each walk: each with a database of its own, made from this template."""

    class Here(Machine):
        def __init__(self) -> None:
            super().__init__(server, template)

    return Here


class Machine(RuleBasedStateMachine):
    """On a database of its own, made from `template`."""

    def __init__(self, server: PostgresServer, template: str) -> None:
        super().__init__()
        self._server = server
        self._database = create_from(server, template, "file_copy")
        self._backup: tuple[str, World, int] | None = None
        self.world = World()
        #: Place of each job in the order of submission. Ids are drawn by the clock, and Hypothesis must find the same order whenever it walks the same way.
        self.order: dict[UUID, int] = {}
        self.wire: list[tuple[UUID, int]] = []
        #: What each attempt that a worker believes to hold has begun; a zombie's lease is among them.
        self.hand: list[Begun] = []
        self.holders: list[UUID] = []  # by place in `hand`
        self.dead: set[UUID] = set()
        self.orphans = 0
        #: Calls that an attempt has declared its intent for, and not made yet; and how often each key was called, whatever the ledger remembers.
        self.pending: list[tuple[UUID, int]] = []
        self.outside: Counter[tuple[UUID, int]] = Counter()
        self.connect()
        tenant = keys.add_tenant(self.tx, "sim", "Sim")
        assert tenant is not None
        self.tenant = tenant.id
        workers.remember_commands(self.tx, describe(HANDLERS))
        self.tx.execute(EFFECTS)
        self.workers = [self.hire(), self.hire()]

    def connect(self) -> None:
        url = self._server.database_url(self._database)
        self.tx = psycopg.connect(url, autocommit=True)
        #: A handler's connection, whose transactions hold its effect.
        self.theirs = psycopg.connect(url, autocommit=True)

    def hire(self) -> UUID:
        worker = uuid7()
        workers.register(self.tx, worker, "worker", "1", [QUEUE], list(HANDLERS))
        return worker

    # Submitting.

    @initialize(number=st.integers(2, 4))
    def begin_with_some(self, number: int) -> None:
        """Or half of all steps would find nothing to do."""
        self.submit(number, 0.0, mortal=False, key=None, twice=False)
        self.announce(lost=False)
        self.deliver(0, number - 1, 0, stays=True, way="begins")

    @precondition(lambda self: len(self.world.jobs) < 12)
    @rule(
        number=st.integers(1, 4),
        delay=st.sampled_from([0.0, 60.0]),
        mortal=st.booleans(),
        key=st.none() | st.integers(0, 3),
        twice=st.booleans(),
    )
    def submit(self, number: int, delay: float, mortal: bool, key: int | None, twice: bool) -> None:
        """`twice`: the COMMIT's outcome was unknown, and the set is repeated as it is. `mortal`: with an end of validity."""
        wishes = [self.wish(delay, mortal, None) for _ in range(number)]
        name = None if key is None else f"key-{key}"
        if name is not None:
            wishes[0] = self.wish(delay, mortal, name)
        new = {wish.id for wish in wishes if wish.key is None or wish.key not in self.world.keys}

        assert set(jobs.submit(self.tx, wishes)) == new
        if twice:
            assert jobs.submit(self.tx, wishes) == {}

        for wish in wishes:
            if wish.id in new:
                self.note(wish.id, Known("sim.step", "scheduled" if delay else "queued"))
        if name is not None:
            self.world.keys.setdefault(name, wishes[0].id)
            found = jobs.find_key(self.tx, self.tenant, name)
            assert found is not None
            assert found[0] == self.world.keys[name]

    def note(self, job_id: UUID, known: Known) -> None:
        self.world.jobs[job_id] = known
        self.order[job_id] = len(self.order)

    def is_naive(self, job_id: UUID) -> bool:
        """Whether what this job calls takes no key."""
        return self.order[job_id] % 2 == 1

    def wish(self, delay: float, mortal: bool, key: str | None) -> jobs.Submission:
        until = datetime.now(UTC) + timedelta(hours=1) if mortal else None
        return jobs.Submission(uuid7(), self.tenant, "sim.step", QUEUE, b"{}", 3, delay=delay, expires_at=until, key=key)

    # The relay and the broker.

    @precondition(lambda self: self.has("queued"))
    @rule(lost=st.sampled_from([False, False, False, True]))
    def announce(self, lost: bool) -> None:
        self.wire += [] if lost else self.claim()

    def claim(self) -> list[tuple[UUID, int]]:
        claimed = outbox.claim(self.tx, QUEUE, list(HANDLERS), window=100, limit=100).rows
        for row in claimed:
            known = self.world.jobs[row.job_id]
            assert (known.state, row.attempt) == ("queued", known.attempt + 1)
        return sorted(((row.job_id, row.attempt) for row in claimed), key=lambda message: self.order[message[0]])

    @precondition(lambda self: self.has("queued"))
    @rule(worker=st.integers(0, 1))
    def carry(self, worker: int) -> None:
        """The usual way: announced, delivered, begun. The messages will come again."""
        claimed = self.claim()
        self.wire += claimed
        self.begin(claimed, self.workers[worker])

    @precondition(lambda self: self.has("scheduled"))
    @rule()
    def let_time_pass(self) -> None:
        """What was scheduled is due."""
        self.tx.execute("update haulier.outbox set due_at = now()")
        due = {job_id for job_id, known in self.world.jobs.items() if known.state == "scheduled"}
        assert {row[0] for row in outbox.stage(self.tx, 1000)} == due
        for job_id in due:
            self.world.jobs[job_id].state = "queued"

    @precondition(lambda self: self.has("queued"))
    @rule(lost=st.booleans())
    def announce_again(self, lost: bool) -> None:
        """What was announced long ago and has not begun; or all, after the broker was wiped."""
        if lost:
            self.wire.clear()
            outbox.unmark_all(self.tx)
        else:
            self.tx.execute("update haulier.outbox set announced_at = announced_at - interval '30 days'")
            outbox.announce_again(self.tx, QUEUE, begun=None, empty=False)
        assert self.tx.execute("select count(announced_at) from haulier.outbox").fetchone() == (0,)

    # Workers.

    @precondition(lambda self: self.wire)
    @rule(
        first=st.integers(0, 99),
        number=st.integers(1, 4),
        worker=st.integers(0, 1),
        stays=st.booleans(),
        way=st.sampled_from(["begins", "begins", "begins", "answer lost", "dies before", "dies after"]),
    )
    def deliver(self, first: int, number: int, worker: int, stays: bool, way: str) -> None:
        """Any messages, in any order. `stays`: they come again. `dies after`: begun, and nobody runs them."""
        chosen = [self.wire[(first + 7 * n) % len(self.wire)] for n in range(number)]
        named = list(dict.fromkeys(chosen))
        if not stays:
            for message in named:
                self.wire.remove(message)
        if way != "dies before":
            self.begin(named, self.workers[worker], way)

    def begin(self, named: Sequence[tuple[UUID, int]], worker: UUID, way: str = "begins") -> None:
        expected = {job_id for job_id, attempt in named if self.may_begin(job_id, attempt)}

        begun, _ = attempts.begin(self.tx, worker, list(named), TIMEOUTS)

        assert {job.job_id for job in begun} == expected
        for job in begun:
            known = self.world.jobs[job.job_id]
            known.attempt += 1
            known.state, known.holder = "running", (known.attempt, worker)
            assert (job.attempt, job.failures, job.solo, job.generation) == (known.attempt, known.failures, known.solo, known.generation)
        if way == "answer lost":
            there = self.leases()
            held = attempts.held(self.tx, worker, list(named))
            begun = [job for job in held if Lease(job.job_id, job.attempt, worker) not in there]
            assert expected <= {job.job_id for job in held}
        begun.sort(key=lambda job: self.order[job.job_id])
        if way != "dies after":
            self.hand += begun
            self.holders += [worker] * len(begun)
        self.decline(named, {job.job_id for job in begun})

    def may_begin(self, job_id: UUID, attempt: int) -> bool:
        known = self.world.jobs.get(job_id)
        return known is not None and known.state == "queued" and known.attempt + 1 == attempt and not known.over

    def decline(self, named: Sequence[tuple[UUID, int]], taken: set[UUID]) -> None:
        """As a worker does with what it could not begin."""
        left = [message for message in named if message[0] not in taken]
        there = jobs.exists(self.tx, [job_id for job_id, _ in left])
        assert there == {job_id for job_id, _ in left if job_id in self.world.jobs}
        lost = [Announcement(job_id, attempt, None) for job_id, attempt in left if job_id not in there]
        if lost:
            orphans.keep(self.tx, QUEUE, encode(Message(QUEUE, tuple(lost))), "unknown jobs")
            self.orphans += 1

    @precondition(lambda self: self.hand)
    @rule(
        one=st.integers(0, 99),
        way=st.sampled_from(["completes", "completes", "answer lost", "cut before", "plain", "with a follow-up"]),
        keeps=st.booleans(),
    )
    def succeed(self, one: int, way: str, keeps: bool) -> None:
        """In its own transaction. `keeps`: whoever wrote the end does not know, and will write one again."""
        job, lease = self.take(one, keeps)
        if way == "plain":
            held = attempts.complete_many(self.tx, lease.worker_id, [Success(job.job_id, job.attempt, "1")])
            assert held == ({job.job_id} if self.holds(lease) else set())
            self.note_success([lease] if held else [], effect=False)
            return
        child = self.wish(0, mortal=False, key=None) if way == "with a follow-up" else None
        done = self.complete([lease], cut=way == "cut before", child=child)
        if child is not None and done:
            self.note(child.id, Known("sim.step", "queued"))
        if way == "answer lost":
            assert not self.complete([lease])
        if way == "cut before":
            self.settle(job, lease, "interrupted")

    @precondition(lambda self: len(self.hand) > 1)
    @rule(first=st.integers(0, 99), number=st.integers(2, 4))
    def succeed_together(self, first: int, number: int) -> None:
        """Those of one worker that are in hand side by side, in one transaction: all, or none of them."""
        worker = self.holders[first % len(self.hand)]
        places = [place for place, holder in enumerate(self.holders) if holder == worker]
        leases = {self.hand[place].job_id: Lease(self.hand[place].job_id, self.hand[place].attempt, worker) for place in places[:number]}
        self.complete(list(leases.values()))

    def complete(self, leases: Sequence[Lease], *, cut: bool = False, child: jobs.Submission | None = None) -> bool:
        """With their effects. `cut`: the connection is lost before the commit. Whether it was committed."""
        send(self.theirs, opening(self.tenant))
        for lease in leases:
            self.theirs.execute("insert into effects values (%s, %s)", (lease.job_id, lease.attempt))
        if child is not None:
            jobs.submit(self.theirs, [child])
        if cut:
            send(self.theirs, b"rollback")
            return False
        held = all(map(self.holds, leases))
        try:
            if len(leases) == 1:
                attempts.complete(self.theirs, leases[0], "1")
            else:
                attempts.complete_together(
                    self.theirs, leases[0].worker_id, [Success(lease.job_id, lease.attempt, "1") for lease in leases]
                )
        except LeaseLostError:
            send(self.theirs, b"rollback")
            assert not held
            return False
        assert held
        self.note_success(leases, effect=True)
        return True

    def note_success(self, leases: Sequence[Lease], *, effect: bool) -> None:
        for lease in leases:
            known = self.world.jobs[lease.job_id]
            known.state, known.holder = "succeeded", None
            known.effects += effect

    @precondition(lambda self: self.hand)
    @rule(one=st.integers(0, 99), end=st.sampled_from(list(ENDS)), keeps=st.booleans())
    def end(self, one: int, end: str, keeps: bool) -> None:
        job, lease = self.take(one, keeps)
        self.settle(job, lease, end)

    def settle(self, job: Begun, lease: Lease, end: str) -> None:
        self.write([outcome.judge(HANDLERS[job.command], job, lease.worker_id, ENDS[end], None)])

    @precondition(lambda self: self.hand)
    @rule(one=st.integers(0, 99))
    def intend_to_call(self, one: int) -> None:
        """As `run.once` does, up to the call itself. Every other job's service takes no key."""
        job, lease = self.take(one, keeps=True)
        earlier = calls.find(self.tx, job.job_id, PAY, job.generation)
        known = self.world.jobs.get(job.job_id)
        assert (earlier and earlier.state) == (known and known.calls.get(job.generation))
        if earlier is not None and earlier.state == "done":
            return
        if earlier is not None and earlier.state == "intended" and self.is_naive(job.job_id):
            self.take(one, keeps=False)
            self.write([outcome.judge(HANDLERS[job.command], job, lease.worker_id, NeedsReviewError("unknown"), None)])
            return
        try:
            calls.intend(self.tx, lease, PAY, job.generation, honours_key=not self.is_naive(job.job_id))
        except LeaseLostError:
            assert not self.holds(lease)
            return
        assert self.holds(lease)
        self.world.jobs[job.job_id].calls[job.generation] = "intended"
        self.pending.append((job.job_id, job.generation))

    @precondition(lambda self: self.pending)
    @rule(one=st.integers(0, 99), end=st.sampled_from(["done", "refused", "answer lost", "never made"]))
    def call(self, one: int, end: str) -> None:
        """Whoever holds the job by now. A service that takes no key is not called twice under one."""
        job_id, generation = self.pending.pop(one % len(self.pending))
        self.outside[job_id, generation] += end in ("done", "answer lost")
        assert not self.is_naive(job_id) or self.outside[job_id, generation] <= 1
        if end not in ("done", "refused"):
            return
        calls.record(self.tx, job_id, PAY, generation, end, "1" if end == "done" else None)
        known = self.world.jobs.get(job_id)
        if known is not None and known.calls.get(generation) not in (None, "done"):
            known.calls[generation] = end

    @precondition(lambda self: not all(map(self.holds, self.leases())))
    @rule(one=st.integers(0, 99))
    def let_a_zombie_write(self, one: int) -> None:
        """In every way there is: whoever holds no lease writes nothing."""
        job, lease = [each for each in zip(self.hand, self.leases(), strict=True) if not self.holds(each[1])][one % self.zombies()]
        assert not self.complete([lease])
        assert attempts.complete_many(self.tx, lease.worker_id, [Success(lease.job_id, lease.attempt, "1")]) == set()
        for end in ENDS:
            self.settle(job, lease, end)

    def zombies(self) -> int:
        return sum(not self.holds(lease) for lease in self.leases())

    def leases(self) -> list[Lease]:
        """What those who have jobs in hand believe to hold."""
        return [Lease(job.job_id, job.attempt, worker) for job, worker in zip(self.hand, self.holders, strict=True)]

    @precondition(lambda self: self.hand)
    @rule(one=st.integers(0, 99))
    def hand_back(self, one: int) -> None:
        job, lease = self.take(one, keeps=False)
        self.write([End(job.job_id, job.attempt, lease.worker_id, "queued", "handed_back", solo=job.solo)])

    def take(self, one: int, keeps: bool) -> tuple[Begun, Lease]:
        place = one % len(self.hand)
        job, worker = self.hand[place], self.holders[place]
        if not keeps:
            del self.hand[place], self.holders[place]
        return job, Lease(job.job_id, job.attempt, worker)

    def holds(self, lease: Lease) -> bool:
        known = self.world.jobs.get(lease.job_id)
        return known is not None and known.holder == (lease.attempt, lease.worker_id)

    def write(self, ends: Sequence[End]) -> None:
        written = attempts.settle(self.tx, ends)
        assert set(written) == {end.job_id for end in ends if self.holds(Lease(end.job_id, end.attempt, end.worker_id))}
        self.note_ends([end for end in ends if end.job_id in written])

    def note_ends(self, ends: Sequence[End]) -> None:
        for end in ends:
            known = self.world.jobs[end.job_id]
            on = end.state in ("scheduled", "queued")
            known.state = "cancelled" if on and known.cancel else end.state
            known.failures += end.blame
            known.solo, known.holder = end.solo, None
        self.adopt([end.job_id for end in ends if self.world.jobs[end.job_id].state in ("rejected", "dead")])

    def adopt(self, parents: Sequence[UUID]) -> None:
        """The follow-ups that came with these ends: one each, where the command names one."""
        wanted = [parent for parent in parents if self.world.jobs[parent].command == "sim.step"]
        rows = self.tx.execute(
            "select id, parent_id from haulier.jobs where command = 'sim.after' and parent_id = any(%s) and not (id = any(%s))",
            (list(parents), list(self.world.jobs)),
        ).fetchall()
        assert sorted(row[1] for row in rows) == sorted(wanted)
        for row in sorted(rows, key=lambda row: self.order[row[1]]):
            self.note(row[0], Known("sim.after", "queued"))

    # What goes wrong with processes.

    @precondition(lambda self: self.has("running"))
    @rule(worker=st.integers(0, 1), seen=st.booleans(), ran=st.integers(0, 2))
    def crash(self, worker: int, seen: bool, ran: int) -> None:
        """All that it had in hand is gone. `seen`: by its runner, who knows which jobs were running (2: that it was many at once)."""
        victim, self.workers[worker] = self.workers[worker], self.hire()
        mine = [job for job, holder in zip(self.hand, self.holders, strict=True) if holder == victim]
        self.drop(victim)
        self.dead.add(victim)
        if not seen:
            return
        suspects = {ANY} if ran == 2 else {job.job_id for job in mine[:ran]}
        held = workers.held_by(self.tx, victim)
        innocent = {job.job_id for job in held if job.solo or ANY not in suspects} - suspects
        ends = [outcome.lapse(job, RETRY, guilty=job.job_id not in innocent) for job in held]
        with self.tx.transaction():
            assert recovery.recover(self.tx, victim, suspects, HANDLERS) == held
        self.note_ends(ends)

    def drop_a_zombie(self) -> None:
        place = next(place for place, lease in enumerate(self.leases()) if not self.holds(lease))
        del self.hand[place], self.holders[place]

    def drop(self, worker: UUID) -> None:
        kept = [(job, holder) for job, holder in zip(self.hand, self.holders, strict=True) if holder != worker]
        self.hand, self.holders = [job for job, _ in kept], [holder for _, holder in kept]

    @precondition(lambda self: self.has("running"))
    @rule(silent=st.integers(0, 2))
    def rescue(self, silent: int) -> None:
        """Upkeep takes back what the dead hold, and what a worker holds that was only silent: that one wakes up as a zombie."""
        gone = [*self.dead, *([self.workers[silent]] if silent < 2 else [])]
        self.tx.execute("update haulier.workers set seen_at = now() - interval '1 hour' where id = any(%s)", (gone,))
        self.take_back({job_id for job_id, known in self.world.jobs.items() if known.holder and known.holder[1] in gone})
        for worker in self.workers:
            workers.register(self.tx, worker, "worker", "1", [QUEUE], list(HANDLERS))

    @precondition(lambda self: self.hand)
    @rule(one=st.integers(0, 99))
    def overrun(self, one: int) -> None:
        """An attempt goes on past its limit under a live heartbeat."""
        job_id = self.hand[one % len(self.hand)].job_id
        self.tx.execute("update haulier.leases set deadline_at = now() - interval '1 hour' where job_id = %s", (job_id,))
        known = self.world.jobs.get(job_id)
        if known is not None and known.holder is not None and known.holder[1] not in self.dead:
            self.take_back({job_id})

    def take_back(self, expected: set[UUID]) -> None:
        with self.tx.transaction():
            found: list[Lapsed] = workers.lapsed(self.tx, LEASE, 10)
            assert expected <= {lapsed.job_id for lapsed in found}
            ends = [outcome.lapse(lapsed, RETRY, guilty=True) for lapsed in found]
            assert recovery.take_back(self.tx, found, HANDLERS) == len(found)
        self.note_ends(ends)

    # People.

    @precondition(lambda self: self.world.jobs and not self.has("cancelled"))
    @rule(one=st.integers(0, 99))
    def cancel(self, one: int) -> None:
        job_id, known = self.nth(one)
        tenants = [self.tenant]
        assert jobs.cancel(self.tx, job_id, tenants, "ann") == (known.state in ("scheduled", "queued"))
        asked = jobs.request_cancel(self.tx, job_id, tenants, "ann")
        assert asked == (known.state == "running" and not known.cancel)
        known.cancel = known.cancel or asked or known.state in ("scheduled", "queued")
        known.state = "cancelled" if known.state in ("scheduled", "queued") else known.state

    @precondition(lambda self: self.world.jobs)
    @rule(one=st.integers(0, 99))
    def expire(self, one: int) -> None:
        """Its time is over. Begin refuses it from then on; upkeep cancels it at once, or later."""
        job_id, known = self.nth(one)
        row = self.tx.execute(
            "update haulier.jobs set expires_at = now() - interval '1 s' where id = %s and expires_at is not null", (job_id,)
        )
        self.tx.execute(
            "update haulier.outbox set expires_at = now() - interval '1 s' where job_id = %s and expires_at is not null", (job_id,)
        )
        known.over = known.over or row.rowcount == 1
        if one % 2:
            self.expire_all()

    def expire_all(self) -> None:
        due = {job_id for job_id, known in self.world.jobs.items() if known.over and known.state in ("scheduled", "queued")}
        assert {row[0] for row in outbox.expire(self.tx, 1000)} == due
        for job_id in due:
            self.world.jobs[job_id].state = "cancelled"

    @precondition(lambda self: self.has("dead"))
    @rule(one=st.integers(0, 99))
    def replay(self, one: int) -> None:
        """A dead letter, and again at once: the second finds nothing dead."""
        dead = [job_id for job_id, known in self.world.jobs.items() if known.state == "dead"]
        job_id = dead[one % len(dead)]
        known = self.world.jobs[job_id]
        unknown = self.is_naive(job_id) and known.calls.get(known.generation) == "intended"
        assert self.is_raised_from_the_dead(job_id) != unknown
        if unknown:
            self.resolve(job_id)
            assert self.is_raised_from_the_dead(job_id)
        assert not self.is_raised_from_the_dead(job_id)

    def resolve(self, job_id: UUID) -> None:
        """A person has looked. (A call that is still under way is not seen; it goes out under the old key.)"""
        known = self.world.jobs[job_id]
        happened = self.outside[job_id, known.generation] > 0
        result = "1" if happened else None
        assert dead_letters.resolve(self.tx, job_id, [self.tenant], "ann", PAY, happened=happened, result=result, reason="looked")
        known.calls[known.generation] = "done" if happened else "refused"

    def is_raised_from_the_dead(self, job_id: UUID) -> bool:
        """False where it is not dead, or a call's outcome is unknown."""
        try:
            with self.tx.transaction():
                dead_letters.replay(self.tx, job_id, [self.tenant], "ann", None)
        except (dead_letters.NotDeadError, dead_letters.OutcomeUnknownError):
            return False
        known = self.world.jobs[job_id]
        if known.calls.get(known.generation) == "refused":
            known.generation += 1
        known.state, known.failures, known.solo, known.over, known.cancel = "queued", 0, False, False, False
        return True

    def has(self, state: str) -> bool:
        return any(known.state == state for known in self.world.jobs.values())

    def nth(self, one: int) -> tuple[UUID, Known]:
        return list(self.world.jobs.items())[one % len(self.world.jobs)]

    # The ledger itself.

    @precondition(lambda self: self._backup is None and len(self.hand) > 1)
    @rule()
    def back_up(self) -> None:
        def keep() -> None:
            self._backup = (create_from(self._server, self._database, "file_copy"), copy.deepcopy(self.world), self.orphans)

        self.without_connections(keep)

    @precondition(lambda self: self._backup is not None)
    @rule()
    def restore(self) -> None:
        """Broker and workers know what the ledger has forgotten. (Whoever holds a lease that is in the backup too may still use it.)"""
        assert self._backup is not None
        gone = self._database
        self._database, self.world, self.orphans = self._backup
        self._backup = None
        self.outside.clear()  # that something is called again for a job whose end the ledger has forgotten is beyond what it promises
        self.without_connections(lambda: drop(self._server, gone))
        for worker in self.workers:
            workers.register(self.tx, worker, "worker", "1", [QUEUE], list(HANDLERS))

    def without_connections(self, do: Any) -> None:
        self.tx.close()
        self.theirs.close()
        do()
        self.connect()

    # What must hold.

    @invariant()
    def the_ledger_is_as_the_model_says(self) -> None:
        assert violations(self.tx) == []
        rows = self.tx.execute("select id, state::text, attempt, failures, solo, worker_id from haulier.jobs")
        found = {row[0]: row[1:] for row in rows}
        assert found == {
            job_id: (known.state, known.attempt, known.failures, known.solo, known.holder and known.holder[1])
            for job_id, known in self.world.jobs.items()
        }
        effects = dict(self.tx.execute("select job_id, count(*) from effects group by 1").fetchall())
        assert effects == {job_id: known.effects for job_id, known in self.world.jobs.items() if known.effects}

    def teardown(self) -> None:
        try:
            if self.tx.closed:
                return
            self.heal_and_run_until_quiet()
        finally:
            self.tx.close()
            self.theirs.close()
            drop(self._server, self._database)
            if self._backup is not None:
                drop(self._server, self._backup[0])

    def heal_and_run_until_quiet(self) -> None:
        """No more faults: every job comes to an end, and nothing is left over."""
        while self.pending:
            self.call(0, "answer lost")
        for worker in (0, 1, 2):
            self.rescue(worker)
        self.announce_again(lost=False)
        self.expire_all()
        self.let_time_pass()
        if self.wire:
            self.begin(list(dict.fromkeys(self.wire)), self.workers[1])
        self.begin(self.claim(), self.workers[0])
        while self.zombies():  # whose jobs others run by now
            self.let_a_zombie_write(0)
            self.drop_a_zombie()
        if self.hand:
            self.end(0, "buried", keeps=True)
        while self.has("dead"):
            self.replay(0)
            self.the_ledger_is_as_the_model_says()
        for worker in (0, 1):
            self.crash(worker, seen=False, ran=0)
        self.rescue(2)
        rounds = 0
        while any(known.state not in FINAL for known in self.world.jobs.values()):
            rounds += 1
            assert rounds < 10, f"not quiet: {self.world.jobs}"
            self.let_time_pass()
            self.begin(self.claim(), self.workers[0])
            while self.hand:
                self.succeed(0, "completes", keeps=False)
        self.the_ledger_is_as_the_model_says()
        assert self.tx.execute("select count(*) from haulier.outbox").fetchone() == (0,)
        kept = self.tx.execute("select coalesce(sum(times), 0) from haulier.orphan_messages").fetchone()
        assert kept == (self.orphans,)
