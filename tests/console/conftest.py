"""One `haulier dev` for the tests of a module that leave it as it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.console.running import Dev, running_dev


@pytest.fixture(scope="module")
def dev() -> Iterator[Dev]:
    with running_dev() as dev:
        yield dev
