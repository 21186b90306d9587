"""Load, faults, and a checker: `make chaos`, or one of

`python -m tests.chaos run --seed 8412 --minutes 30` breaks everything there is under load, then reads whether all promises were kept ·
`python -m tests.chaos run --replay DIR` does it again with an earlier run's schedule ·
`python -m tests.chaos check DIR` reads a run's files again ·
`python -m tests.chaos scenarios` shows every systemic fault by itself, in under ten minutes.

Exit status 0 only if everything holds.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from pathlib import Path

from config import logs
from tests.chaos import report, scenarios, soak
from tests.chaos.faults import FAULTS
from tests.chaos.scenarios import SCENARIOS
from tests.chaos.soak import Options


def main() -> int:
    logs.configure(level="WARNING")
    options = _read_options()
    if options.command == "check":
        return 0 if report.conclude(options.directory).valid else 1
    if options.command == "scenarios":
        return scenarios.play(options.names, options.output)
    if options.replay:
        wanted, schedule = soak.read_schedule(options.replay)
    else:
        wanted = Options(options.seed, options.minutes, options.rate, options.threads, options.pace, options.mode, tuple(options.only))
        schedule = soak.plan(wanted)
    print(f"seed {wanted.seed}, {wanted.minutes:g} min, {len(schedule)} faults; everything is kept in {options.output}", file=sys.stderr)
    return 0 if soak.run(options.output, wanted, schedule).valid else 1


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="load and faults, then the checker")
    running.add_argument("--seed", type=int, default=secrets.randbelow(10_000))
    running.add_argument("--minutes", type=float, default=30)
    running.add_argument("--rate", type=float, default=Options.rate, help="jobs that clients submit in a second")
    running.add_argument("--threads", type=int, default=Options.threads, help="clients")
    running.add_argument("--pace", type=float, default=Options.pace, help="seconds from one fault to the next, about")
    running.add_argument(
        "--mode",
        choices=["liveness", "safety"],
        default="liveness",
        help="safety: nothing is healed or waited for, so what is open is not held against it",
    )
    running.add_argument("--only", type=_read_classes, default=[], help="classes of faults, with commas between")
    running.add_argument("--replay", type=Path, metavar="DIR", help="the seed and the faults of an earlier run")
    playing = commands.add_parser("scenarios", help="each systemic fault by itself")
    playing.add_argument("names", nargs="*", choices=[*SCENARIOS, []], metavar="F1 F2 …")
    for parts in (running, playing):
        parts.add_argument("--output", type=Path, default=Path(tempfile.gettempdir()) / f"haulier-chaos-{time.strftime('%Y%m%d-%H%M%S')}")
    checking = commands.add_parser("check", help="read a run's files again")
    checking.add_argument("directory", type=Path)
    return parser.parse_args()


def _read_classes(text: str) -> list[str]:
    names = text.split(",")
    unknown = set(names) - set(FAULTS)
    if unknown:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(FAULTS)}, got {', '.join(sorted(unknown))}")
    return names


if __name__ == "__main__":
    sys.exit(main())
