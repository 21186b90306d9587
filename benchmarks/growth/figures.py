"""Counters before and after, and what lies between them for each job."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from benchmarks.processes import calibrate, processor_seconds

Tx = psycopg.Connection[Any]

#: What Postgres needs beside its own settings. No checkpoint falls into a measurement that is shorter than half an hour.
SETTINGS = {
    "shared_preload_libraries": "pg_stat_statements",
    "log_autovacuum_min_duration": "0",
    "checkpoint_timeout": "30min",
    "max_wal_size": "16GB",
}
EXTENSIONS: LiteralString = "create extension pg_stat_statements; create extension pg_walinspect"

# Of the roles that Haulier's processes assume, and not of the benchmark's own superuser.
STATEMENTS: LiteralString = """
select regexp_replace(query, '\\s+', ' ', 'g'), sum(calls)::bigint, sum(shared_blks_hit + shared_blks_read)::bigint, sum(total_exec_time)::float8
  from pg_stat_statements
 where dbid = (select oid from pg_database where datname = current_database()) and userid <> current_user::regrole
 group by 1 order by 3 desc
"""
UPDATES: LiteralString = "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relid = 'haulier.jobs'::regclass"
DEAD: LiteralString = "select sum(n_dead_tup)::bigint from pg_stat_user_tables where schemaname = 'haulier'"
WAL: LiteralString = """
select coalesce(sum(record_size), 0)::bigint, coalesce(sum(fpi_size), 0)::bigint
  from pg_get_wal_stats(%s, pg_current_wal_flush_lsn()) where %s::pg_lsn < pg_current_wal_flush_lsn()
"""

VACUUM = re.compile(
    r'automatic (?:vacuum|analyze) of table "(?P<database>[^.]+)\.(?P<table>[^"]+)".*?'
    r"buffer usage: (?P<hits>\d+) hits, (?P<reads>\d+) reads.*?CPU: user: (?P<user>[\d.]+) s, system: (?P<system>[\d.]+) s",
    re.DOTALL,
)


@dataclass
class Figures:
    """Of each job, if the name does not say otherwise. Processor time in milliseconds, WAL in bytes; page images apart, since they only
    say how long ago a checkpoint was. `calibration`: how slow the machine was at the beginning (`calibrate`). `hot`: the share of the updates of jobs that touched no index. `statements`: the dearest, by buffers.
    """

    jobs: int
    seconds: float
    rate: float
    calibration: float
    cpu: dict[str, float]
    cpu_all: float
    buffers: float
    vacuum_cpu: float
    vacuum_buffers: float
    wal: float
    wal_images: float
    hot: float | None
    dead_rows: int
    statements: list[tuple[str, float, float, float]] = field(repr=False)

    def as_row(self) -> dict[str, Any]:
        return asdict(self)


class Counters:
    """Those of one database, from the moment it is made."""

    def __init__(self, tx: Tx, log: Path, roots: Mapping[str, int]) -> None:
        self._tx = tx
        self._log = log
        self._roots = roots
        self._calibration = calibrate()
        tx.execute("select pg_stat_statements_reset()")
        self._log_from = log.stat().st_size
        self._updates = _one(tx, UPDATES)
        self._lsn = _one(tx, "select pg_current_wal_flush_lsn()")[0]
        self._cpu = processor_seconds(roots)
        self._at = time.monotonic()

    def read(self, jobs: int, seconds: float | None = None) -> Figures:
        """What `jobs` jobs have cost since. `seconds`: how long they took, if that was not until now."""
        seconds = seconds or time.monotonic() - self._at
        cpu = processor_seconds(self._roots)
        used = {role: round((cpu[role] - self._cpu[role]) * 1000 / jobs, 4) for role in self._roots}
        statements = self._tx.execute(STATEMENTS).fetchall()
        wal, images = _one(self._tx, WAL, (self._lsn, self._lsn))
        updates, hot = (now - then for now, then in zip(_one(self._tx, UPDATES), self._updates, strict=True))
        vacuum_cpu, vacuum_buffers = self._vacuumed()
        return Figures(
            jobs=jobs,
            seconds=round(seconds, 2),
            rate=round(jobs / seconds, 1),
            calibration=self._calibration,
            cpu=used,
            cpu_all=round(sum(used.values()), 4),
            buffers=round(sum(row[2] for row in statements) / jobs, 2),
            vacuum_cpu=round(vacuum_cpu * 1000 / jobs, 4),
            vacuum_buffers=round(vacuum_buffers / jobs, 2),
            wal=round(wal / jobs),
            wal_images=round(images / jobs),
            hot=round(hot / updates, 3) if updates else None,
            dead_rows=_one(self._tx, DEAD)[0],
            statements=[(row[0][:160], *(round(value / jobs, 4) for value in row[1:])) for row in statements[:8]],
        )

    def _vacuumed(self) -> tuple[float, int]:
        """Seconds of processor time and buffers of autovacuum, which says so in the log when it has done a table."""
        with self._log.open() as file:
            file.seek(self._log_from)
            text = file.read()
        found = [match for match in VACUUM.finditer(text) if match["database"] == self._tx.info.dbname]
        return sum(float(each["user"]) + float(each["system"]) for each in found), sum(
            int(each["hits"]) + int(each["reads"]) for each in found
        )


def _one(tx: Tx, query: LiteralString, values: tuple[Any, ...] = ()) -> tuple[Any, ...]:
    row = tx.execute(query, values).fetchone()
    assert row is not None
    return row
