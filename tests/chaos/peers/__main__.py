"""Haulier and its peers under the same three faults, on real servers: `python -m tests.chaos.peers [--contenders NAME …] [--faults NAME …] [--rounds 3]`.

A client submits numbered jobs, notes which were accepted, and submits again what raised. Each job's handler writes one row, with nothing that would
notice a second. Workers are killed (SIGKILL, and started again at once), or the server that keeps the jobs is, or every connection is cut; then it is waited for a minute and a half
for whatever is left, and counted. Ten minutes a round; peers are installed by pip into `.venv-peers/` at the first run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.about import describe, in_words
from benchmarks.servers import Servers
from config import logs
from console.servers.find import rabbitmq_node
from console.servers.postgres import PostgresServer
from tests.chaos.peers import contest
from tests.chaos.peers.contenders import CONTENDERS, WEAK, Contender
from tests.chaos.peers.contest import FAULTS, Result

#: Of one run: jobs, and how many of them are submitted in a second.
JOBS, RATE = 1000, 150.0
EVERYBODY: Mapping[str, Contender] = {**CONTENDERS, **WEAK}
CAPTION = (
    "Sums of all rounds; seconds from the fault's end to the last effect: median and worst. lost: accepted, no effect, nowhere to be found. "
    "doubled: more than one effect; in brackets those among them that the client had to submit again. stuck: still waiting after a minute and a "
    "half, or held as failed. What raises is submitted again by everybody's client: by Haulier's with the idempotency key, by PgQueuer's and Procrastinate's "
    "with a key that is good for as long as the job waits."
)


def main() -> int:
    logs.configure(level="WARNING")
    options = read_options()
    if options.read:
        return tell_again(options.read)
    chosen = {name: EVERYBODY[name] for name in options.contenders}
    for contender in chosen.values():
        contender.python()
    results: list[Result] = []
    with ExitStack() as stack:
        servers = Servers(stack.enter_context(PostgresServer()), stack.enter_context(rabbitmq_node(schedulers=1)))
        output = stack.enter_context(options.output.open("w"))
        about = describe(servers.postgres, servers.rabbitmq, None, {contender.peer for contender in chosen.values() if contender.peer})
        print(json.dumps({"about": about, "jobs": options.jobs, "rate": options.rate}), file=output, flush=True)
        for turn in range(options.rounds):
            for name, contender in chosen.items():
                for fault in (fault for fault in contender.faults if fault in options.faults):
                    result = contest.run(servers, name, contender, fault, options.jobs, options.rate)
                    results.append(result)
                    line = json.dumps({"round": turn + 1, **result.as_row()})
                    print(line, file=output, flush=True)
                    print(line, file=sys.stderr, flush=True)
    show(results)
    print(f"{in_words(about)}\nevery run: {options.output}")
    return 0


def tell_again(files: Sequence[Path]) -> int:
    """Of several files together, as if it had been one run."""
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    show([Result(**{name: value for name, value in row.items() if name != "round"}) for row in rows if "contender" in row])
    for about in dict.fromkeys(in_words(row["about"]) for row in rows if "about" in row):
        print(about)
    return 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--contenders", nargs="+", choices=list(EVERYBODY), default=list(CONTENDERS), metavar="NAME", help="; ".join(CONTENDERS)
    )
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS), metavar="NAME", help="; ".join(FAULTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--rate", type=float, default=RATE, help="jobs that are submitted in a second")
    parser.add_argument("--read", nargs="+", type=Path, metavar="FILE", help="only tell what these files of earlier runs hold")
    default = Path(tempfile.gettempdir()) / f"haulier-peers-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
    parser.add_argument("--output", type=Path, default=default, help="JSON lines, one a run")
    return parser.parse_args()


def show(results: Sequence[Result]) -> None:
    console = Console(width=150)
    table = Table(title="Under the same faults", title_justify="left")
    for heading in ("", "fault", "accepted", "lost", "doubled", "stuck", "last effect after, s"):
        table.add_column(heading, justify="left" if heading in {"", "fault"} else "right")
    for name, fault in dict.fromkeys((result.contender, result.fault) for result in results):
        table.add_row(name, fault, *figures([result for result in results if (result.contender, result.fault) == (name, fault)]))
    console.print(table)
    console.print(CAPTION)
    for name in dict.fromkeys(result.contender for result in results):
        console.print(f"{name}: {EVERYBODY[name].settings}.")


def figures(runs: Sequence[Result]) -> list[str]:
    def total(field: str) -> int:
        return sum(getattr(run, field) for run in runs)

    again = total("resubmitted")
    seconds = [run.seconds for run in runs]
    return [
        f"{total('accepted'):,}",
        str(total("lost")),
        f"{total('doubled')} ({again})" if again else str(total("doubled")),
        str(total("stuck")),
        f"{statistics.median(seconds):.1f}, {max(seconds):.1f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
