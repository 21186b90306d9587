"""What the demo prints at its end."""

from __future__ import annotations

from collections.abc import Sequence

from console.demo.plan import Plan
from console.demo.verdict import Story
from console.printing import print_facts, print_table
from pipelines.orders.balance import Balance
from pipelines.orders.schema import CURRENCY


def print_summary(plan: Plan, story: Story, books: Balance, waits: Sequence[tuple[str, int, list[float]]], seconds: float) -> None:
    print(f"\n{len(plan.orders)} orders in {plan.submissions} submissions, {seconds:.1f} s\n")
    why = {
        "succeeded": "paid and shipped",
        "rejected": f"{plan.declined} cards declined, {plan.sold_out} sold out",
        "dead": "the carrier delivers nothing to that address",
    }
    print_table(
        ["orders that ended", "how many", "planned", ""], [(state, story.endings[state], plan.endings[state], why[state]) for state in why]
    )
    print()
    letters = [(each["id"], each["command"], each["reason"], each["error"] and each["error"]["message"]) for each in story.dead_letters]
    print_table(["dead letter", "command", "reason", "error"], letters)
    print(f"the first was repaired and replayed: its order is {story.repaired}\n")
    columns = ["latency, submitted to done", "orders", "p50", "p95", "p99"]
    print_table(columns, [(way, count, *(f"{each:.2f} s" for each in percentiles)) for way, count, percentiles in waits])
    print()
    print_facts(
        {
            "stock": f"{books.stock} units = {books.available} available + {books.reserved} reserved + {books.sold} sold",
            "money": f"{_money(books.paid)} of orders paid, {_money(books.captured)} captured",
            "repeated": f"{plan.submissions - len(plan.orders)} repeated submissions of {plan.repeated} orders made no second job",
            "outage": f"{story.refused_in_outage} calls turned away by the gateway, all made good",
        }
    )
    print()


def _money(amount: int) -> str:
    return f"{amount / 100:,.2f} {CURRENCY}"
