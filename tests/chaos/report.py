"""What came of a run: for people, for machines, and as the one sentence that states it (with zero losses in n jobs, the bound is 3/n)."""

from __future__ import annotations

import bisect
import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.check import Run, Verdict, check, load

#: Of each oracle's findings.
SHOWN = 10


def conclude(directory: Path) -> Verdict:
    """Check a run's files, show what was found, and write `result.json` beside them."""
    found = load(directory)
    verdict = check(found)
    show(verdict)
    recovered = {name: _summary(each) for name, each in sorted(recoveries(found).items())}
    print(f"{'recovery, seconds: median (worst)':44} times  a new job    all open")
    for name, row in recovered.items():
        first, last = row["first"], row["all"]
        print(f"{name:44} {row['times']:5}  {first['median']:4.1f} ({first['worst']:4.1f})  {last['median']:4.1f} ({last['worst']:4.1f})")
    sentence = state(found, verdict)
    print(sentence)
    result = {
        **as_json(verdict),
        "sentence": sentence,
        "versions": found.config.get("versions"),
        "options": found.config.get("options"),
        "skipped": found.config.get("skipped"),
        "silent": {name: reason for name, reason in found.config.get("noticed", {}).items() if isinstance(reason, str)},
        "recovery": recovered,
    }
    (directory / "result.json").write_text(json.dumps(result, indent=1))
    return verdict


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


def state(run: Run, verdict: Verdict) -> str:
    """The result, as it is to be quoted: under these faults, and no further."""
    counts, found = verdict.counts, {name: len(sentences) for name, sentences in verdict.found.items()}
    options, versions = run.config.get("options", {}), run.config.get("versions", {})
    sentence = (
        f"Seed {options.get('seed')}, commit {versions.get('commit')}, Postgres {versions.get('postgres')}, RabbitMQ {versions.get('rabbitmq')}, "
        f"{options.get('minutes'):g} min, {counts['faults']} faults of {counts['classes']} classes: asked {counts['asked']:,}, "
        f"acknowledged {counts['acknowledged']:,}, indeterminate {counts['indeterminate']:,} (recovered {counts['recovered']:,}), "
        f"lost {found['lost']}, stuck {found['stuck']}, ghosts {found['ghost']}, phantoms {found['phantom']}, duplicate jobs {found['duplicate_job']}, "
        f"duplicate effects {found['duplicate_effect']}, missing effects {found['missing_effect']}; {counts['attempts']:,} attempts at "
        f"{counts['jobs']:,} jobs, {counts['rescued']:,} rescued, {counts['repeated_calls']:,} calls repeated with their key"
    )
    drained = drain_seconds(run)
    if drained is not None:
        sentence += f"; drained {drained:.1f} s after the last fault was healed"
    sentence += "."
    if not found["lost"] and counts["acknowledged"]:
        sentence += (
            f" 0 lost of {counts['acknowledged']:,} bounds the chance of a loss at {3 / counts['acknowledged']:.1e} a job "
            "(95 %, rule of three), under these faults."
        )
    return sentence


def drain_seconds(run: Run) -> float | None:
    """From the healing of all to the last end of a job."""
    healed = next((event.wall for event in run.events if event.f == "run" and event.key == "healed"), None)
    ends = [job["finished_at"] for job in run.jobs if job["finished_at"] is not None]
    return max(0.0, max(ends) - healed) if healed is not None and ends else None


@dataclass(frozen=True)
class Recovery:
    """Seconds from the end of a fault until the first job that was submitted after it had ended, and until all had that were open then. Later
    faults, and what the jobs themselves wait for, have a part in both.
    """

    first: float
    all: float


def recoveries(run: Run) -> dict[str, list[Recovery]]:
    """By class of fault."""
    jobs = sorted((job["submitted_at"], job["finished_at"]) for job in run.jobs if job["finished_at"] is not None)
    found: dict[str, list[Recovery]] = defaultdict(list)
    for event in run.events:
        if event.f == "fault" and event.type == "ok" and event.key:
            after = bisect.bisect_right(jobs, (event.wall, math.inf))
            first = min((finished for _, finished in jobs[after:]), default=event.wall)
            last = max((finished for _, finished in jobs[:after]), default=event.wall)
            found[event.key].append(Recovery(max(0.0, first - event.wall), max(0.0, last - event.wall)))
    return dict(found)


def _summary(found: Sequence[Recovery]) -> dict[str, Any]:
    times = {"first": [each.first for each in found], "all": [each.all for each in found]}
    return {"times": len(found), **{name: {"median": statistics.median(each), "worst": max(each)} for name, each in times.items()}}
