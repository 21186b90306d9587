"""What must hold after any crash, read from the ledger and from the sink (reliability.md, A5)."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from tests.crash.rig import Rig, eventually

TIMELINES = """
select j.id, j.seq, array_agg(e.seq order by e.seq), (array_agg(e.kind order by e.seq))[1], (array_agg(e.state order by e.seq desc))[1] = j.state
  from haulier.jobs j left join haulier.events e on e.job_id = j.id where j.root_id = any(%s) group by j.id
"""
ATTEMPTS = """
select j.id, j.attempt, array_agg(a.number order by a.started_at, a.number), count(*) filter (where a.outcome = 'succeeded')
  from haulier.jobs j left join haulier.attempts a on a.job_id = j.id where j.root_id = any(%s) group by j.id
"""
EFFECTS = """
select j.id, j.command, count(e.job_id), coalesce(max(e.attempt) = j.attempt, true), (j.command <> 'crash.plain' and j.payload->>'end' is distinct from 'plain')::integer
  from haulier.jobs j left join effects e on e.job_id = j.id where j.root_id = any(%s) group by j.id
"""

FOLLOW_UPS = """
select j.id, count(c.id) from haulier.jobs j left join haulier.jobs c on c.parent_id = j.id
 where j.id = any(%s) and j.command = 'crash.chain' group by j.id
"""


def all_succeeded_once(rig: Rig, ids: Sequence[UUID]) -> None:
    """Every job of these families succeeded, blamed for nothing, with exactly one effect; and nothing is left over."""
    roots = list(ids)
    assert len(set(roots)) == len(roots)
    ends = rig.rows("select state::text, failures, count(*) from haulier.jobs where root_id = any(%s) group by 1, 2", roots)
    assert [(state, failures) for state, failures, _ in ends] == [("succeeded", 0)], rig.describe()
    every_job_has_a_receipt(rig)
    effects_are_single(rig, roots)
    history_is_whole(rig, roots)
    nothing_is_left(rig)


def every_job_has_a_receipt(rig: Rig) -> None:
    """A wish repeated under its key made one job: there is none that no client was told of."""
    phantoms = rig.rows(
        "select id, command from haulier.jobs where parent_id is null and not (id = any(%s)) and not starts_with(command, 'webhooks.')",
        list(rig.accepted),
    )
    assert phantoms == []


def effects_are_single(rig: Rig, roots: Sequence[UUID]) -> None:
    """One row a job, left by the attempt that succeeded; one key a job at the sink; two follow-ups a chain."""
    for job_id, command, rows, by_the_last, wanted in rig.rows(EFFECTS, roots):
        assert (rows, by_the_last) == (wanted, True), f"{command} {job_id} left {rows} rows"
    chains = rig.rows(FOLLOW_UPS, roots)
    assert all(children == 2 for _, children in chains), chains
    called = {str(row[0]) for row in rig.rows("select id from haulier.jobs where id = any(%s) and command = 'crash.call'", roots)}
    keys = [key for key in rig.sink.calls if key.partition(":")[0] in called]
    assert len(keys) == len(called), f"{len(called)} jobs called under {len(keys)} keys"


def history_is_whole(rig: Rig, roots: Sequence[UUID]) -> None:
    """Timelines from `accepted` to the state that is, without a gap; attempts numbered without a gap, one success."""
    for job_id, seq, seqs, first, ends_there in rig.rows(TIMELINES, roots):
        assert (seqs, first, ends_there) == (list(range(1, seq + 1)), "accepted", True), f"timeline of {job_id}: {rig.kinds(job_id)}"
    for job_id, attempt, numbers, successes in rig.rows(ATTEMPTS, roots):
        assert (numbers, successes) == (list(range(1, attempt + 1)), 1), f"attempts of {job_id}: {numbers}"


def no_message_was_lost(rig: Rig) -> None:
    """Announcing again hides the loss of a message (it costs only time): so it is looked for by itself."""
    for relay in rig.started("relay"):
        assert "announced and not begun" not in relay.log, relay.log


def nothing_is_left(rig: Rig) -> None:
    assert rig.rows("select * from haulier.outbox") == []
    assert rig.rows("select * from haulier.leases") == []
    eventually(lambda: rig.ready_messages() == 0, 10, "messages are left in RabbitMQ")
