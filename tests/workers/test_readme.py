"""The README's worked example, word for word."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

from sqlalchemy import NullPool, create_engine

from ledger.connection import sqlalchemy_url
from pipelines.orders.schema import create_tables


def test_the_command_that_the_readme_adds_runs(shop):
    [source] = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "README.md").read_text(), re.DOTALL)
    module = types.ModuleType("readme")
    sys.modules["readme"] = module
    exec(source, module.__dict__)
    there = shop(module.thank_customer)
    with create_engine(sqlalchemy_url(there.database.url), poolclass=NullPool).begin() as connection:
        create_tables(connection)

    thanked, nobody = there.run(module.ThankCustomer(**module.ThankCustomer.example)), there.run(module.ThankCustomer(customer="nobody"))

    assert (thanked.state, thanked.result) == ("succeeded", {"orders": 0})
    assert (nobody.state, nobody.error["code"]) == ("rejected", "nobody")
    del sys.modules["readme"]


def test_every_file_that_the_readme_names_is_there():
    top = Path(__file__).parents[2]
    named = set(re.findall(r"`((?:producers|ledger|workers|pipelines|docs)/[\w/.]+)`", (top / "README.md").read_text()))

    assert named
    assert [name for name in sorted(named) if not (top / name).exists()] == []
