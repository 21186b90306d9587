"""What came of a run: for people, for machines, and as the one sentence that states it (with zero losses in n jobs, the bound is 3/n)."""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.chaos.check import Run, Verdict, check, load

#: Of each oracle's findings.
SHOWN = 10


def conclude(directory: Path) -> Verdict:
    """Check a run's files, show what was found, and write `result.json` beside them."""
    found = load(directory)
    verdict = check(found)
    recoveries = recovery_times(found)
    show(verdict)
    for name, seconds in sorted(recoveries.items(), key=lambda item: -max(item[1])):
        print(
            f"{name}: {len(seconds)} times, all that was open then had ended {middle(seconds):.1f} s after it (worst {max(seconds):.1f} s)"
        )
    sentence = state(found, verdict)
    print(sentence)
    result = {
        **as_json(verdict),
        "sentence": sentence,
        "versions": found.config.get("versions"),
        "options": found.config.get("options"),
        "skipped": found.config.get("skipped"),
        "recovery": {name: {"times": len(each), "median": middle(each), "worst": max(each)} for name, each in recoveries.items()},
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


def recovery_times(run: Run) -> dict[str, Sequence[float]]:
    """By class of fault: seconds from its end until every job that was open then had ended. Later faults may have had a part in it."""
    jobs = sorted((job["submitted_at"], job["finished_at"]) for job in run.jobs if job["finished_at"] is not None)
    found: dict[str, list[float]] = defaultdict(list)
    for event in run.events:
        if event.f == "fault" and event.type == "ok" and event.key:
            ends = [finished for submitted, finished in jobs if submitted <= event.wall < finished]
            found[event.key].append(max(ends, default=event.wall) - event.wall)
    return dict(found)


def middle(seconds: Sequence[float]) -> float:
    return statistics.median(seconds)
