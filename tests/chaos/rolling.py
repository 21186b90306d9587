"""`python -m tests.chaos.rolling [COMMIT]`: the previous release and this one side by side, under load, there and back again. Two minutes.

The previous release is the commit before the last migration, unless another is named. Its code runs from a tree of its own, with the packages that are
installed here. Each of the two knows a command that the other does not: such a job waits until somebody knows it, and is nobody's dead letter.
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
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID

from console.servers.postgres import PostgresServer
from console.servers.rabbitmq import RabbitmqNode
from ledger.migrate import migrate
from tests.chaos.steady import Load
from tests.crash.releases import GONE, NEW
from tests.crash.rig import ROOT, Part, Rig, eventually
from tests.crash.verdict import all_succeeded_once

ROLES = ("relay", "work", "upkeep")
#: Seconds for which both carry the load.
TOGETHER = 6


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.rolling", description=__doc__)
    parser.add_argument("commit", nargs="?", help="of the previous release; without it, the one before the last migration")
    commit: str = parser.parse_args(arguments).commit or git("log", "-1", "--format=%H", "--", "ledger/migrations/versions") + "^"
    try:
        print(f"previous: {git('log', '-1', '--format=%h %s', commit)}")
    except subprocess.CalledProcessError:
        parser.error(f"expected a commit of this repository, got {commit!r}")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="haulier-rolling-")))
        tree = unpack(commit, directory / "previous")
        postgres = stack.enter_context(PostgresServer())
        node = stack.enter_context(RabbitmqNode(schedulers=1))
        run_there(tree, "from ledger.migrate import migrate; import sys; migrate(sys.argv[1])", postgres.url)
        rig = stack.enter_context(Rig(postgres.url, node.url, directory, tick=0.5, lease=4.0, heartbeat=1.0))
        ids: list[UUID] = []
        previous = start(rig, tree, "PREVIOUS")
        intake = rig.start("intake", tree=tree, handlers="tests.crash.releases:PREVIOUS")
        with Load(rig, ("crash.count", "crash.call", "crash.share")) as load:
            step("the previous release alone", rig, load, ids, GONE)
            ids += waiting(rig, NEW)
            migrate(postgres.url)
            step("the schema of this one", rig, load, ids, GONE)
            current = start(rig, ROOT, "CURRENT")
            step("both", rig, load, ids, GONE, NEW)
            intake = hand_over(rig, intake, ROOT, "CURRENT")
            stop(rig, previous)
            ids += waiting(rig, GONE)
            step("this one alone", rig, load, ids, NEW)
            previous = start(rig, tree, "PREVIOUS")
            step("both, on the way back", rig, load, ids, GONE, NEW)
            intake = hand_over(rig, intake, tree, "PREVIOUS")
            stop(rig, current)
            step("the previous release, on the later schema", rig, load, ids, GONE)
        ids += load.ids
        rig.wait_until_final(ids, 60)
        all_succeeded_once(rig, ids)
        assert rig.value("select count(*) from haulier.orphan_messages") == 0
        print(f"{len(ids)} jobs, {len(load.ids)} of them over HTTP: lost 0, done twice 0, dead 0")
    return 0


def unpack(commit: str, tree: Path) -> Path:
    """With what the rig needs of today: its table of commands and what starts its processes."""
    tree.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
    for name in ("commands.py", "releases.py"):
        shutil.copy(ROOT / "tests/crash" / name, tree / "tests/crash" / name)
    return tree


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def run_there(tree: Path, code: str, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=tree, env=environment, check=True)


def start(rig: Rig, tree: Path, table: str) -> list[Part]:
    return [rig.start(role, tree=tree, handlers=f"tests.crash.releases:{table}") for role in ROLES]


def hand_over(rig: Rig, intake: Part, tree: Path, table: str) -> Part:
    stop(rig, [intake])
    return rig.start("intake", tree=tree, handlers=f"tests.crash.releases:{table}")


def stop(rig: Rig, parts: Sequence[Part]) -> None:
    for part in parts:
        code = part.stop()
        assert code == 0, f"the {part.role} ended with {code}:\n{part.log[-2000:]}"
        rig.parts.remove(part)


def step(name: str, rig: Rig, load: Load, ids: list[UUID], *commands: str) -> None:
    """What these commands and the load ask for is done while this lasts."""
    began = time.time()
    new = [rig.write(command, {"n": n}) for command in commands for n in range(10)]
    before = len(load.ids)
    eventually(lambda: len(load.ids) > before + 10, 60, rig.describe)
    rig.wait_until_final(new, 60)
    time.sleep(TOGETHER)
    ids += new
    print(f"{name}: longest pause between ends of jobs {load.longest_pause(began):.1f} s", flush=True)


def waiting(rig: Rig, command: str) -> list[UUID]:
    """Nobody who runs now knows this command: its jobs wait, untouched."""
    ids = [rig.write(command, {"n": n}) for n in range(5)]
    time.sleep(3)
    assert rig.rows("select distinct state::text, attempt from haulier.jobs where id = any(%s)", ids) == [("queued", 0)]
    return ids


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
