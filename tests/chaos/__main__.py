"""`python -m tests.chaos check DIR`: read a run's files again and say whether everything holds. Exit status 0 only if it does."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.chaos import report
from tests.chaos.check import check, load


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="read a run's files again")
    checking.add_argument("directory", type=Path)
    options = parser.parse_args()
    verdict = check(load(options.directory))
    report.show(verdict)
    return 0 if verdict.valid else 1


if __name__ == "__main__":
    sys.exit(main())
