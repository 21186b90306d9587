"""Whether everything went as it must: what happened against the plan, and all books against each other."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text

from console.demo.plan import Plan
from console.demo.stage import Stage
from pipelines.orders.balance import Charge, balance, compare_with_gateway


@dataclass
class Story:
    """What happened, as far as the books do not tell it."""

    endings: Counter[str] = field(default_factory=Counter[str])
    ids: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    dead_letters: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    repaired: str | None = None
    refused_in_outage: int = 0


# A family is done with the last of its jobs. One whose jobs each took one attempt was not held up by anything.
LATENCIES = """
select case when straight then 'straight through' else 'held up by the outage' end as way, count(*),
       percentile_cont(array[0.5, 0.95, 0.99]) within group (order by seconds) as percentiles
  from (select extract(epoch from max(finished_at) - min(submitted_at)) as seconds, max(attempt) = 1 as straight
          from haulier.every_job group by root_id) families
 group by straight order by straight desc
"""


def latencies(db: Connection) -> list[tuple[str, int, list[float]]]:
    """From the submission to the family's end: which families, how many, and seconds at p50, p95 and p99."""
    return [(way, count, [float(each) for each in percentiles]) for way, count, percentiles in db.execute(text(LATENCIES))]


def faults(plan: Plan, story: Story, stage: Stage, db: Connection) -> list[str]:
    """A sentence for each thing that does not hold."""
    return [*_of_orders(plan, story, db), *_of_dead_letters(plan, story), *_of_books(stage, db)]


def _of_orders(plan: Plan, story: Story, db: Connection) -> list[str]:
    found: list[str] = []
    doubled = [key for key, ids in story.ids.items() if len(ids) != 1]
    jobs = db.scalar(text("select count(*) from haulier.every_job where command = 'orders.place'"))
    if doubled:
        found.append(f"{len(doubled)} orders became more than one job, {doubled[0]} the first of them")
    if jobs != len(plan.orders):
        found.append(f"{plan.submissions} submissions of {len(plan.orders)} orders made {jobs} jobs")
    if story.endings != plan.endings:
        found.append(f"the orders ended as {_count(story.endings)}; they should have ended as {_count(plan.endings)}")
    if not story.refused_in_outage:
        found.append("the gateway's outage went by unnoticed, so nothing was shown")
    return found


def _of_dead_letters(plan: Plan, story: Story) -> list[str]:
    found: list[str] = []
    if len(story.dead_letters) != plan.undeliverable:
        found.append(f"{len(story.dead_letters)} dead letters were listed, {plan.undeliverable} orders cannot be delivered")
    if story.repaired != "succeeded":
        found.append(f"the repaired dead letter's order is {story.repaired}, not succeeded")
    return found


def _of_books(stage: Stage, db: Connection) -> list[str]:
    ours = balance(db)
    theirs = stage.gateway.books()
    found = [
        *ours.discrepancies,
        *compare_with_gateway(db, [Charge(each["id"], each["reference"], each["amount"]) for each in theirs["charges"]]),
    ]
    if ours.reserved:
        found.append(f"{ours.reserved} units are still reserved, and every order has ended")
    if ours.captured != theirs["captured"]:
        found.append(f"we booked {ours.captured}, and the gateway took {theirs['captured']}")
    sent = Counter(shipment["reference"] for shipment in stage.carrier.books()["shipments"])
    wanted = {str(each) for each in db.scalars(text("select order_id from orders.shipments"))}
    if sent.keys() != wanted or sent.total() != len(wanted):
        found.append(f"the carrier took {sent.total()} parcels of {len(sent)} orders, we sent {len(wanted)}")
    return found


def _count(endings: Counter[str]) -> str:
    return ", ".join(f"{number} {state}" for state, number in sorted(endings.items()))
