"""One run: load and faults from a seed for so many minutes, then all is healed, all must end, and the checker reads what there is.

The schedule, like the load, is drawn from the seed; `config.json` keeps it, and `--replay` takes it from there.
"""

from __future__ import annotations

import json
import platform
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.chaos import reads, report
from tests.chaos.check import Verdict
from tests.chaos.clients import Clients
from tests.chaos.faults import FAULTS, missing
from tests.chaos.place import Place, eventually

#: Seconds: of load before the first fault and after the last, so that there is a peace to compare with; for all jobs to end; for queues to be empty.
WARM_UP, COOL_DOWN, DRAIN, EMPTY = 5.0, 5.0, 180.0, 30.0


@dataclass(frozen=True)
class Planned:
    """A fault to come: `at` and `seconds` from the run's beginning."""

    at: float
    fault: str
    seconds: float


@dataclass(frozen=True)
class Options:
    seed: int
    minutes: float
    rate: float = 45
    threads: int = 12
    pace: float = 14
    mode: str = "liveness"
    only: tuple[str, ...] = ()
    copies: int = 2


def plan(options: Options) -> list[Planned]:
    """Every class in turn, shuffled anew each time round; about one in `pace` seconds, some before the last one is over."""
    chance = random.Random(options.seed)
    names = [name for name in options.only or FAULTS if name not in missing()]
    planned: list[Planned] = []
    at, hat = WARM_UP, list[str]()
    while at < options.minutes * 60 - COOL_DOWN:
        if not hat:
            hat = chance.sample(names, len(names))
        name = hat.pop()
        planned.append(Planned(round(at, 2), name, round(chance.uniform(*FAULTS[name].seconds), 2)))
        at += options.pace * chance.uniform(0.5, 1.5)
    return planned


def run(directory: Path, options: Options, schedule: Sequence[Planned]) -> Verdict:
    directory.mkdir(parents=True)
    with Place(directory, seed=options.seed, copies=options.copies) as place:
        write_config(directory, options, schedule, versions(place))
        clients = Clients(
            place.history,
            [slot.port for slot in place.of("serve")],
            place.keys,
            seed=options.seed,
            threads=options.threads,
            rate=options.rate,
        )
        clients.start()
        break_things(place, schedule, options)
        clients.stop()
        clients.join()
        if options.mode == "liveness":
            drain(place)
        reads.write(place.database_url, directory / "final", place.depths())
    return report.conclude(directory)


def write_config(directory: Path, options: Options, schedule: Sequence[Planned], found: dict[str, str]) -> None:
    config = {
        "options": asdict(options),
        "mode": options.mode,
        "versions": found,
        "classes": sorted({each.fault for each in schedule}),
        "skipped": missing(),
        "noticed": {name: fault.noticed for name, fault in FAULTS.items()},
        "schedule": [asdict(each) for each in schedule],
    }
    (directory / "config.json").write_text(json.dumps(config, indent=1))


def versions(place: Place) -> dict[str, str]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    return {
        "commit": commit or "unknown",
        "postgres": str(place.sql("show server_version")[0][0]),
        "rabbitmq": place.rabbitmq.ctl("version").strip(),
        "python": platform.python_version(),
    }


def break_things(place: Place, schedule: Sequence[Planned], options: Options) -> None:
    """Returns when the time is up and every fault is healed. Each runs on a thread of its own; those on the same thing wait for each other."""
    began = time.monotonic()
    turns = {fault.on: threading.Lock() for fault in FAULTS.values()}
    threads: list[threading.Thread] = []
    for number, planned in enumerate(schedule):
        time.sleep(max(0.0, began + planned.at - time.monotonic()))
        thread = threading.Thread(target=_break, args=(place, planned, number, turns, options.seed), daemon=True)
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join()
    time.sleep(max(0.0, began + options.minutes * 60 - time.monotonic()))


def _break(place: Place, planned: Planned, number: int, turns: dict[str, threading.Lock], seed: int) -> None:
    fault = FAULTS[planned.fault]
    value: dict[str, Any] = {"fault": number, "seconds": planned.seconds}
    with turns[fault.on]:
        place.history.write("invoke", "fault", key=fault.name, value=value)
        print(f"{time.strftime('%H:%M:%S')} {fault.name}, {planned.seconds:.0f} s", file=sys.stderr, flush=True)
        try:
            with fault.run(place, random.Random(f"{seed}-{number}")):
                time.sleep(planned.seconds)
        except Exception as error:  # noqa: BLE001  (another fault may have taken away what this one needs; the checker counts those that came)
            print(f"{fault.name}: {error!r}", file=sys.stderr, flush=True)
            place.history.write("fail", "fault", key=fault.name, value={**value, "error": repr(error)})
        else:
            place.history.write("ok", "fault", key=fault.name, value=value)


def drain(place: Place) -> None:
    """Everything is healed; returns when nothing is open, or when that has taken too long, which the checker then says."""
    place.history.write("info", "run", key="healed")
    deadline = time.monotonic() + DRAIN
    while time.monotonic() < deadline:
        ((waiting, running),) = place.sql("select (select count(*) from haulier.outbox), (select count(*) from haulier.leases)")
        if not waiting and not running:
            break
        time.sleep(0.25)
    place.history.write("info", "run", key="drained")
    try:
        eventually(lambda: not any(place.depths().values()), EMPTY, "the queues are not empty")
    except AssertionError as error:
        print(error, file=sys.stderr)


def read_schedule(directory: Path) -> tuple[Options, list[Planned]]:
    """Of an earlier run."""
    config = json.loads((directory / "config.json").read_text())
    values: dict[str, Any] = config["options"]
    values["only"] = tuple(values["only"])
    return Options(**values), [Planned(**each) for each in config["schedule"]]
