"""The audit's seals: whatever is done to a record or to its chain, a walk along it names the record; and no record is left out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg
import pytest

from ledger import audit, keys, sealing
from ledger.connection import Database
from ledger.roles import Role
from ledger.sealing import Head, Walk
from tests.ledger.conftest import Books


class Audited:
    """Five records of a tenant and five of another one, sealed."""

    def __init__(self, books: Books) -> None:
        self.books, self.tx = books, books.tx
        other = keys.add_tenant(books.tx, "globex", "Globex")
        assert other
        self.mine, self.other = books.tenant, other.id
        for number in range(5):
            for tenant in (self.mine, self.other):
                audit.record(self.tx, tenant, "key:abc", "job.replay", f"job-{number}", origin="::1", reason="mended", number=number)
        self.seal()
        rows = self.tx.execute("select tenant_id, audit_id from haulier.audit_seals order by tenant_id, seq").fetchall()
        self.records: list[UUID] = [row[1] for row in rows if row[0] == self.mine]
        self.foreign: list[UUID] = [row[1] for row in rows if row[0] == self.other]

    def seal(self) -> dict[int, Head]:
        with self.tx.transaction():
            return sealing.seal(self.tx)

    def walk(self, anchors: dict[int, Head] | None = None) -> Walk:
        with self.tx.transaction():
            self.tx.execute("set transaction isolation level repeatable read")
            return sealing.verify(self.tx, anchors)

    def flaws(self, anchors: dict[int, Head] | None = None) -> list[tuple[int, int | None, UUID | None]]:
        return [(flaw.tenant, flaw.seq, flaw.audit_id) for flaw in self.walk(anchors).flaws]


@pytest.fixture
def audited(books: Books) -> Audited:
    return Audited(books)


def test_what_nobody_touched_holds(audited: Audited):
    walk = audited.walk()

    assert (walk.flaws, walk.unsealed, walk.late) == ([], 0, 0)
    assert {tenant: head.seq for tenant, head in walk.heads.items()} == {audited.mine: 5, audited.other: 5}
    assert audited.flaws(walk.heads) == []


@pytest.mark.parametrize("column", ["at", "who", "origin", "action", "target", "reason", "data"])
def test_a_changed_record_is_named(audited: Audited, column: str):
    value = {"at": "at + interval '1 microsecond'", "data": "'{\"number\": 7}'"}.get(column, "'other'")
    audited.tx.execute(f"update haulier.audit set {column} = {value} where id = %s", (audited.records[2],))  # pyright: ignore[reportArgumentType]

    assert audited.flaws() == [(audited.mine, 3, audited.records[2])]


def remove(audited: Audited) -> None:
    audited.tx.execute("delete from haulier.audit where id = %s", (audited.records[1],))


def remove_with_seal(audited: Audited) -> None:
    remove(audited)
    audited.tx.execute("delete from haulier.audit_seals where audit_id = %s", (audited.records[1],))


def put_in(audited: Audited) -> None:
    """Past the trigger, and the chain moved up to make room."""
    audited.tx.execute("alter table haulier.audit disable trigger await_seal")
    audit.record(audited.tx, audited.mine, "key:abc", "job.cancel", "job-9")
    audited.tx.execute("alter table haulier.audit enable trigger await_seal")
    audited.tx.execute("update haulier.audit_seals set seq = -seq where tenant_id = %s and seq > 2", (audited.mine,))
    audited.tx.execute("update haulier.audit_seals set seq = 1 - seq where tenant_id = %s and seq < 0", (audited.mine,))
    audited.tx.execute(
        "insert into haulier.audit_seals (tenant_id, seq, audit_id, hash) select %s, 3, id, sha256('x') from haulier.audit where target = 'job-9'",
        (audited.mine,),
    )


def put_in_unsealed(audited: Audited) -> None:
    audited.tx.execute("alter table haulier.audit disable trigger await_seal")
    audit.record(audited.tx, audited.mine, "key:abc", "job.cancel", "job-9")


def reorder(audited: Audited) -> None:
    swap(audited, "tenant_id = %s and seq = 2", (audited.mine,), "tenant_id = %s and seq = 3", (audited.mine,))


def swap_tenants(audited: Audited) -> None:
    audited.tx.execute(
        "update haulier.audit set tenant_id = case tenant_id when %s then %s::integer else %s::integer end where target = 'job-1'",
        (audited.mine, audited.other, audited.mine),
    )


def swap(audited: Audited, one: str, its: tuple[Any, ...], other: str, others: tuple[Any, ...]) -> None:
    find = "select audit_id from haulier.audit_seals where "
    first = audited.books.value(find + one, *its)
    second = audited.books.value(find + other, *others)
    for old, new in ((first, UUID(int=0)), (second, first), (UUID(int=0), second)):
        audited.tx.execute("update haulier.audit_seals set audit_id = %s where audit_id = %s", (new, old))


def cut_off_the_end(audited: Audited) -> None:
    for record in audited.records[3:]:
        audited.tx.execute("delete from haulier.audit_seals where audit_id = %s", (record,))
        audited.tx.execute("delete from haulier.audit where id = %s", (record,))


def remove_before_its_seal(audited: Audited) -> None:
    audit.record(audited.tx, audited.mine, "key:abc", "job.cancel", "job-9")
    audited.tx.execute("delete from haulier.audit where target = 'job-9'")


Tamper = Callable[[Audited], None]
TAMPERED: list[tuple[Tamper, list[tuple[str, int | None, int | None]]]] = [
    # What is done, and the flaws: tenant, place in the chain, and which record (by its place when all was well; -1: another one).
    (remove, [("mine", 2, 1)]),
    (remove_with_seal, [("mine", 2, None)]),
    (put_in, [("mine", 3, -1), ("mine", 4, 2), ("mine", 5, None)]),
    (put_in_unsealed, [("mine", None, -1)]),
    (reorder, [("mine", 2, 2), ("mine", 3, 1)]),
    (swap_tenants, [("mine", 2, 1), ("other", 2, 1)]),
    (cut_off_the_end, [("mine", 4, None)]),
    (remove_before_its_seal, [("mine", None, -1)]),
]


@pytest.mark.parametrize(("tamper", "expected"), TAMPERED, ids=[tamper.__name__ for tamper, _ in TAMPERED])
def test_whoever_tampers_is_found(audited: Audited, tamper: Tamper, expected: list[tuple[str, int | None, int | None]]):
    tamper(audited)

    found: list[tuple[str, int | None, int | None]] = []
    for tenant, seq, record in audited.flaws():
        its = audited.records if tenant == audited.mine else audited.foreign
        at = None if record is None else its.index(record) if record in its else -1
        found.append(("mine" if tenant == audited.mine else "other", seq, at))
    assert found == expected


def test_a_chain_made_anew_is_found_by_an_anchor_and_by_nothing_else(audited: Audited):
    anchor = audited.walk().heads
    audit.record(audited.tx, audited.mine, "key:abc", "job.replay", "later")
    audited.tx.execute("update haulier.audit set who = 'key:innocent' where id = %s", (audited.records[2],))
    for table in ("audit_seals", "audit_heads"):
        audited.tx.execute(f"delete from haulier.{table} where tenant_id = %s", (audited.mine,))  # pyright: ignore[reportArgumentType]
    audited.tx.execute("delete from haulier.audit_unsealed")
    audited.tx.execute("insert into haulier.audit_unsealed select tenant_id, id from haulier.audit where tenant_id = %s", (audited.mine,))
    audited.seal()

    assert audited.flaws() == []
    assert audited.flaws(anchor) == [(audited.mine, 5, None)]


def test_an_end_that_was_cut_off_with_its_head_is_found_by_an_anchor(audited: Audited):
    anchor = audited.walk().heads
    cut_off_the_end(audited)
    audited.tx.execute(
        "update haulier.audit_heads h set seq = 3, hash = s.hash from haulier.audit_seals s where s.tenant_id = h.tenant_id and s.seq = 3 and h.tenant_id = %s",
        (audited.mine,),
    )

    assert audited.flaws() == []
    assert audited.flaws(anchor) == [(audited.mine, 4, None)]


def test_what_is_committed_late_is_sealed_late_and_not_left_out(audited: Audited):
    with psycopg.connect(audited.books.database.url) as slow:
        audit.record(slow, audited.mine, "key:abc", "job.cancel", "slow")
        audit.record(audited.tx, audited.mine, "key:abc", "job.cancel", "quick")
        assert audited.seal()[audited.mine].seq == 6
        assert audited.seal() == {}
        slow.commit()
    assert audited.seal()[audited.mine].seq == 7
    audit.record(audited.tx, None, "key:root", "tenant.create", "initech")
    assert audited.walk().unsealed == 1
    assert audited.seal()[sealing.PLATFORM].seq == 1

    assert (audited.flaws(), audited.walk().unsealed) == ([], 0)


def test_a_sealing_that_does_not_commit_has_sealed_nothing(audited: Audited):
    audit.record(audited.tx, audited.mine, "key:abc", "job.cancel", "next")
    with pytest.raises(ZeroDivisionError), audited.tx.transaction():
        sealing.seal(audited.tx)
        raise ZeroDivisionError

    assert (audited.walk().unsealed, audited.flaws()) == (1, [])
    assert audited.seal()[audited.mine].seq == 6


def test_many_who_write_while_it_is_sealed_leave_valid_chains(audited: Audited):
    """As upkeep's role, with sets smaller than what waits."""
    writers, each = 8, 40
    left = threading.Semaphore(0)

    def write(number: int) -> None:
        with psycopg.connect(audited.books.database.url) as tx:
            for count in range(each):
                audit.record(tx, (audited.mine, audited.other)[count % 2], f"key:{number}", "job.cancel", count)
                tx.commit()
        left.release()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    database = Database(audited.books.database.url, Role.UPKEEP, size=1)
    for thread in threads:
        thread.start()
    done = 0
    with database.plumbing(deadline=60) as tx:
        while True:
            done += left.acquire(blocking=False)  # before the look, which may miss what is written meanwhile
            with tx.transaction():
                sealed = sealing.seal(tx, 30)
            if not sealed and done == writers:
                break
    for thread in threads:
        thread.join()
    database.close()

    walk = audited.walk()
    assert (walk.flaws, walk.unsealed) == ([], 0)
    assert sum(head.seq for head in walk.heads.values()) == 10 + writers * each
