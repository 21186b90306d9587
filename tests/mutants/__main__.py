"""`python -m tests.mutants [WORD…]`: make each mutant (or those whose name has one of the words) in a copy of this tree, and see its test fail.

Ends with status 0 when each test passes on the product as it is, and fails by an assertion on its mutant.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.mutants.table import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "__pycache__")
#: How the message of a failure begins that is a test's own verdict, and not an accident on the way to one.
VERDICTS = ("AssertionError", "assert ", "Failed: DID NOT RAISE")


def main(words: Sequence[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    if not chosen:
        print(f"no mutant's name has any of these words: {' '.join(words)}; without words all {len(MUTANTS)} are made")
        return 2
    with tempfile.TemporaryDirectory(prefix="haulier-mutants-") as directory:
        copy = Path(directory) / "copy"
        shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
        ends = run(copy, sorted({mutant.test for mutant in chosen}))
        if ends != ["passed"] * len(ends) or not ends:
            print(f"the tests do not pass on the product as it is, so they tell nothing: {ends}")
            return 1
        caught = [is_caught(copy, mutant) for mutant in chosen]
    print(f"mutation score {sum(caught)}/{len(caught)}")
    return 0 if all(caught) else 1


def is_caught(copy: Path, mutant: Mutant) -> bool:
    file = copy / mutant.file
    text, began = file.read_text(), time.monotonic()
    file.write_text(mutate(text, mutant))
    try:
        ends = run(copy, [mutant.test])
    finally:
        file.write_text(text)
    caught = ends == ["failed"]
    print(
        f"{'caught  ' if caught else 'SURVIVED'} {time.monotonic() - began:5.1f} s  {mutant.name}{'' if caught else f': {ends}'}",
        flush=True,
    )
    return caught


def mutate(text: str, mutant: Mutant) -> str:
    """Raises ValueError when its place is not found: the product has changed, and so must the table."""
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.name!r}: its text stands {text.count(mutant.old)} times in {mutant.file}, and must once:\n{mutant.old}")
    return text.replace(mutant.old, mutant.new)


def run(copy: Path, tests: Sequence[str]) -> list[str]:
    """How each test ended: passed, failed, or what else went wrong with it."""
    report = copy / "report.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    return verdicts(report.read_text()) if report.exists() else [done.stdout + done.stderr]


def verdicts(report: str) -> list[str]:
    """From pytest's report in XML. What is wrong with a test is no verdict on the product: an import, a fixture, an exception on its way."""
    found: list[str] = []
    for case in ET.fromstring(report).iter("testcase"):
        wrong = [(each.tag, each.get("message", "")) for each in case if each.tag in ("failure", "error", "skipped")]
        if not wrong:
            found.append("passed")
        else:
            own = all(tag == "failure" and message.startswith(VERDICTS) for tag, message in wrong)
            found.append("failed" if own else f"{wrong[0][0]}: {wrong[0][1]}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants", description="make each mutant in a copy of this tree, and see its test fail"
    )
    parser.add_argument("words", metavar="WORD", nargs="*", help="only those whose name has one of the words")
    sys.exit(main(parser.parse_args().words))
