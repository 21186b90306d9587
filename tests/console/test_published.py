"""`haulier commands check`: the code held against what was published."""

from __future__ import annotations

from pathlib import Path

import orjson

from pipelines import schemas
from pipelines.load import load
from tests.console.running import haulier

TABLE = "pipelines.table:HANDLERS"


def test_a_broken_schema_fails_and_a_compatible_one_is_written_down(tmp_path: Path):
    file = tmp_path / "schemas.json"
    now = orjson.loads(orjson.dumps(schemas.publish_all(load("pipelines.table:HANDLERS"))))
    narrower = orjson.loads(orjson.dumps(now))
    narrower["orders.confirm"]["error_codes"]["late"] = "It came too late."
    file.write_bytes(orjson.dumps(narrower))
    broken = haulier("commands", "check", "--write", "--file", str(file), cwd=tmp_path, HAULIER_HANDLERS=TABLE)

    del now["orders.confirm"]
    file.write_bytes(orjson.dumps(now))
    unwritten = haulier("commands", "check", "--file", str(file), cwd=tmp_path, HAULIER_HANDLERS=TABLE)
    written = haulier("commands", "check", "--write", "--file", str(file), cwd=tmp_path, HAULIER_HANDLERS=TABLE)

    assert (broken.returncode, unwritten.returncode, written.returncode) == (1, 1, 0)
    assert "orders.confirm: the error code 'late' is gone; make it orders.confirm@2" in broken.stderr
    assert "orders.confirm is new" in unwritten.stdout
    assert haulier("commands", "check", "--file", str(file), cwd=tmp_path, HAULIER_HANDLERS=TABLE).returncode == 0
