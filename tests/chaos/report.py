"""A verdict for people, and for machines."""

from __future__ import annotations

import sys
from typing import Any

from tests.chaos.check import Verdict

#: Of each oracle's findings.
SHOWN = 10


def show(verdict: Verdict) -> None:
    """The counts, and what does not hold."""
    print(", ".join(f"{name.replace('_', ' ')} {count}" for name, count in verdict.counts.items()))
    for oracle, sentences in verdict.found.items():
        for sentence in sentences[:SHOWN]:
            print(f"{oracle}: {sentence}", file=sys.stderr)
        if len(sentences) > SHOWN:
            print(f"{oracle}: and {len(sentences) - SHOWN} more", file=sys.stderr)
    print("everything holds" if verdict.valid else f"does not hold: {', '.join(name for name, found in verdict.found.items() if found)}")


def as_json(verdict: Verdict) -> dict[str, Any]:
    return {"valid": verdict.valid, "counts": verdict.counts, "found": {name: found for name, found in verdict.found.items() if found}}
