"""Jobs of two tenants in one set, on one thread and one connection: each sees and writes what is its own tenant's, whatever the one before it did."""

from __future__ import annotations

import random

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from ledger import keys
from pipelines.command import Rejected, Retry, Snooze
from pipelines.many import handles_many
from tests.workers.commands import After, Do, after, doing

GOODS = """
create table goods (
    tenant_id integer not null default nullif(current_setting('haulier.tenant', true), '')::integer,
    job_id uuid, what text not null default 'there before')
"""
SEEN = text("select array_agg(distinct tenant_id), current_setting('haulier.tenant') from goods")


class Meeting:
    """Two tenants with goods of their own, and what handlers met of them."""

    def __init__(self, shop, *handlers):
        self.there = shop(*handlers)
        with self.there.database.plumbing() as tx:
            other = keys.add_tenant(tx, "other", "Other")
            assert other is not None
            self.numbers = {"acme": self.there.tenant, "other": other.id}
            tx.execute(GOODS)
            tx.execute("grant select, insert, update, delete on goods to haulier_handler")
            tx.execute("call haulier.guard('goods')")
            for number in self.numbers.values():
                tx.execute("insert into goods (tenant_id) values (%s)", (number,))
        #: By job: whose it is, and whose goods it saw each time that it looked.
        self.seen = []

    def look(self, run, db):
        """Read, and try to write what is the other's."""
        mine = self.numbers[run.tenant]
        [other] = set(self.numbers.values()) - {mine}
        tenants, bound = db.execute(SEEN).one()
        self.seen.append((run.tenant, tenants, bound))
        assert db.execute(text("update goods set what = 'stolen' where tenant_id = :other"), {"other": other}).rowcount == 0
        assert db.execute(text("delete from goods where tenant_id <> :mine"), {"mine": mine}).rowcount == 0
        with pytest.raises(ProgrammingError, match="row-level security"), db.begin_nested():
            db.execute(text("insert into goods (tenant_id, job_id) values (:other, :job)"), {"other": other, "job": run.job_id})

    def write(self, run, db):
        db.execute(text("insert into goods (job_id, what) values (:job, 'done')"), {"job": run.job_id})

    def submit(self, chance, commands):
        """Each for one of the tenants or the other."""
        ids = []
        for command in commands:
            self.there.tenant = chance.choice(list(self.numbers.values()))
            ids += self.there.submit(command)
        return ids

    def check(self):
        assert [row for row in self.seen if row[1:] != ([self.numbers[row[0]]], str(self.numbers[row[0]]))] == []
        assert {row[0] for row in self.seen} == {"acme", "other"}
        value = self.there.value
        assert value("select count(*) from goods where what = 'there before'") == 2
        assert value("select count(*) from goods g join haulier.jobs j on j.id = g.job_id where g.tenant_id <> j.tenant_id") == 0
        assert value("select count(*) from haulier.jobs j join haulier.jobs p on p.id = j.parent_id where j.tenant_id <> p.tenant_id") == 0


#: What a handler may do with the database before its end, and what becomes of a job that ends so.
WAYS = ("transaction", "read", "session", "read, then transaction", "nothing")
ENDS = {
    "succeed": "succeeded",
    "succeed without the database": "succeeded",
    "succeed with a follow-up": "succeeded",
    "raise": "scheduled",
    "reject": "rejected",
    "snooze": "scheduled",
    "break the statement": "scheduled",
    "commit by itself": "scheduled",
}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shares", [False, True], ids=["each", "sharing"])
def test_whatever_the_ones_before_did_each_sees_and_writes_its_own(shop, seed, shares):
    chance = random.Random(seed)
    # In a transaction that is shared, nothing is read beside it.
    ways, ends = [way for way in WAYS if not (shares and "read" in way)], list(ENDS)
    plan = [(chance.choice(ways), chance.choice(ends)) for _ in range(60)]

    def handler(command, run):
        way, end = plan[command.n]
        if "read" in way:
            with run.read() as db:
                meeting.look(run, db)
        if way == "session":
            with run.session() as session:
                meeting.look(run, session.connection())
        if "transaction" in way:
            with run.transaction() as db:
                meeting.look(run, db)
        return None if end == "succeed without the database" else finish(run, end)

    def finish(run, end):
        with run.transaction() as db:
            meeting.write(run, db)
            match end:
                case "succeed with a follow-up":
                    run.submit(After())
                case "raise":
                    raise ValueError("no")
                case "reject":
                    return Rejected("no")
                case "snooze":
                    return Snooze(60)
                case "break the statement":
                    db.execute(text("select 1 / 0"))
                case "commit by itself":
                    db.execute(text("delete from goods where job_id = :job"), {"job": run.job_id})
                    db.commit()
                case _:
                    pass
        return None

    meeting = Meeting(shop, doing(handler, shares_transaction=shares), after)
    # Those in between want nothing of the database, and leave what was opened for them to the next.
    commands = chance.sample([*(Do(n=n) for n in range(len(plan))), *[After()] * 30], len(plan) + 30)
    ids = meeting.submit(chance, commands)

    meeting.there.deliver(*ids)

    meeting.check()
    expected = [ENDS[plan[command.n][1]] if isinstance(command, Do) else "succeeded" for command in commands]
    assert [meeting.there.job(job_id).state for job_id in ids] == expected
    written = [end for _, end in plan if end in {"succeed", "succeed with a follow-up"}]
    assert meeting.there.value("select count(*) from goods where what = 'done'") == len(written)


def test_of_many_none_is_of_another_tenant(shop):
    def handler(commands, together):
        with together.transaction() as db:
            for run in together.runs:
                assert run.tenant == together.runs[0].tenant
                meeting.look(run, db)
                meeting.write(run, db)

    many = handles_many(Do, queue="test", retry=Retry(max_failures=3))(handler)
    meeting = Meeting(shop, many)
    ids = meeting.submit(random.Random(1), [Do()] * 40)

    meeting.there.deliver(*ids)

    meeting.check()
    assert {meeting.there.job(job_id).state for job_id in ids} == {"succeeded"}
