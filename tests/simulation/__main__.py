"""`python -m tests.simulation [--minutes 10] [--seed N]`: walk until the time is over. What fails is told as calls, to be kept in test_machine.py."""

from __future__ import annotations

import argparse
import random
import time

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import invariant, run_state_machine_as_test

from console.servers.postgres import PostgresServer
from tests.servers import make_template
from tests.simulation.machine import QUICK, machine_on

#: Walks of one seed.
WALKS = 25


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    asked = parser.parse_args()
    until, first, steps = time.monotonic() + asked.minutes * 60, asked.seed, 0
    number = first
    with PostgresServer(settings=QUICK) as server:
        template = make_template(server)
        while number == first or time.monotonic() < until:
            print(f"seed {number}", flush=True)
            steps += walk(server, template, number)
            number += 1
    print(f"{(number - first) * WALKS} walks, {steps} steps, no promise broken")


def walk(server: PostgresServer, template: str, number: int) -> int:
    """How many steps the walks of this seed took."""
    taken: list[int] = []

    class Counting(machine_on(server, template)):
        @invariant()
        def a_step_is_counted(self) -> None:
            taken.append(1)

    long = settings(
        max_examples=WALKS,
        stateful_step_count=60,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        print_blob=True,
    )
    run_state_machine_as_test(seed(number)(Counting), settings=long)
    return len(taken)


if __name__ == "__main__":
    main()
