"""`make demo`: orders over HTTP through everything, with all that goes wrong in a shop, and at the end the books are held together.

`python -m console.demo [--orders N]`; HAULIER_DEMO_BROKER=rabbitmq has a real RabbitMQ carry the messages. Exit status 0 only if all holds.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import httpx2
import orjson

from config import logs
from console.demo.board import Board
from console.demo.plan import ADDRESS, Plan, make_plan, stock_up
from console.demo.shop import NotAcceptedError, Shop
from console.demo.stage import Stage, StageError, staged
from console.demo.summary import print_summary
from console.demo.verdict import Story, faults, latencies
from console.servers.process import ServerError
from pipelines.orders.balance import balance

#: So many orders at a time, and a look at the rest between.
SET = 25
LOOK_EVERY = 1.0
#: Seconds: how long the outage lasts at least, how long it may take to be noticed, and the orders to end.
OUTAGE = 2.0
NOTICED_WITHIN = 30.0
DONE_WITHIN = 180.0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--orders", type=int, default=500)
    broker = os.environ.get("HAULIER_DEMO_BROKER", "memory")
    try:
        plan = make_plan(parser.parse_args().orders)
    except ValueError as error:
        parser.error(str(error))
    if broker not in {"memory", "rabbitmq"}:
        parser.error(f"HAULIER_DEMO_BROKER is memory or rabbitmq, got {broker!r}")
    logs.configure(level="WARNING")
    print(
        f"starting a payment gateway, a carrier and `haulier dev` on {'a private RabbitMQ' if broker == 'rabbitmq' else 'embedded parts'}"
    )
    try:
        with staged(broker) as stage:
            return play(stage, plan)
    except (StageError, ServerError, NotAcceptedError, httpx2.HTTPError) as error:
        print(f"the demo could not go on: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; everything is stopped", file=sys.stderr)
        return 130


def play(stage: Stage, plan: Plan) -> int:
    began = time.monotonic()
    with stage.engine.begin() as db:
        stock_up(db, stage.tenant, plan)
    story = Story()
    shop = Shop(stage.client("submitter"))
    with Board(len(plan.orders)) as board:
        first, second = len(plan.orders) * 2 // 5, len(plan.orders) * 7 // 10
        board.tell(f"{len(plan.orders)} orders in {plan.submissions} submissions, to {stage.url}")
        submit(shop, board, plan, 0, first)
        story.refused_in_outage = have_an_outage(stage, shop, board, plan, first, second)
        submit(shop, board, plan, second, len(plan.orders))
        wait_for_all(shop, board)
        story.ids, story.endings = shop.ids, shop.look()
        with stage.engine.connect() as db:
            waits = latencies(db)
        repair(stage, shop, board, story)
    shop.close()
    with stage.engine.connect().execution_options(isolation_level="REPEATABLE READ") as db:
        wrong = faults(plan, story, stage, db)
        print_summary(plan, story, balance(db), waits, time.monotonic() - began)
    for sentence in wrong:
        print(f"does not hold: {sentence}", file=sys.stderr)
    if not wrong:
        print("Everything holds: each order was carried out once, and stock and money balance to the unit.")
    return 1 if wrong else 0


def submit(shop: Shop, board: Board, plan: Plan, start: int, end: int) -> None:
    looked_at = time.monotonic()
    for at in range(start, end, SET):
        shop.submit(plan.orders[at : min(at + SET, end)])
        if time.monotonic() - looked_at >= LOOK_EVERY:
            board.show(shop.look())
            looked_at = time.monotonic()


def have_an_outage(stage: Stage, shop: Shop, board: Board, plan: Plan, start: int, end: int) -> int:
    """Orders keep coming while the gateway is away. Returns how many requests it turned away."""
    before = stage.gateway.books()["requests"]
    stage.gateway.switch("outage")
    board.tell("the payment gateway goes away; orders keep coming")
    began = time.monotonic()
    submit(shop, board, plan, start, end)
    while True:
        refused = stage.gateway.books()["requests"] - before
        lasted = time.monotonic() - began
        if (refused and lasted >= OUTAGE) or lasted >= NOTICED_WITHIN:
            break
        board.show(shop.look())
        time.sleep(LOOK_EVERY)
    stage.gateway.switch("none")
    board.tell(f"the payment gateway is back after {lasted:.1f} s, having turned {refused} calls away")
    return refused


def wait_for_all(shop: Shop, board: Board) -> None:
    """Returns at the deadline too: the verdict says what is missing."""
    deadline = time.monotonic() + DONE_WITHIN
    while time.monotonic() < deadline:
        states = shop.look()
        board.show(states)
        if not states["active"]:
            return
        time.sleep(LOOK_EVERY)


def repair(stage: Stage, shop: Shop, board: Board, story: Story) -> None:
    """Do what an operator would: look at the dead letters, correct one's address, and replay it."""
    with stage.client("operator") as operator:
        story.dead_letters = orjson.loads(operator.get("/v1/dead-letters").raise_for_status().content)["items"]
        if not story.dead_letters:
            return
        letter = story.dead_letters[0]
        payload = {**letter["payload"], "address": ADDRESS}
        board.tell(f"dead letter {letter['id']} ({letter['error']['message']}) is given an address and replayed")
        path = f"/v1/dead-letters/{letter['id']}/replay"
        operator.post(path, json={"payload": payload, "reason": "the customer gave another address"}).raise_for_status()
    shop.forget_state(letter["root_id"])
    wait_for_all(shop, board)
    story.repaired = shop.states[letter["root_id"]]


if __name__ == "__main__":
    sys.exit(main())
