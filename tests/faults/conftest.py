"""A rig for each test; nothing in it runs yet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.rig import Rig


@pytest.fixture
def rig(database_url: str, rabbitmq_url: str, tmp_path: Path) -> Iterator[Rig]:
    with Rig(database_url, rabbitmq_url, tmp_path) as found:
        yield found
