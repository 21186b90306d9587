"""Fuzz a real intake by its own document: `make fuzz`, or `python -m tests.intake.fuzz --minutes 5 --seed 1`.

schemathesis with all its checks in all its phases, the stateful one too, and the keys of two tenants who must not see each other's
things, over jobs in every state. What it finds is a mistake of the service or of the document.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from config.ids import uuid7
from config.settings import Settings
from console.servers.postgres import PostgresServer
from ledger import attempts, calls, keys, workers
from ledger.attempts import End, Lease
from ledger.connection import Database
from ledger.migrate import migrate
from pipelines.command import Handler
from pipelines.load import describe, load
from tests.intake.conftest import Api, running_intake
from tests.servers import fresh_database

ROOT = Path(__file__).parents[2]


@dataclass
class Target:
    """A running intake and the keys to fuzz it with, by name."""

    url: str
    identities: Mapping[str, str]
    #: The slug of the first.
    tenant: str


@contextmanager
def target(database: Database, **settings: Any) -> Iterator[Target]:
    """An intake with this release's own commands, and two tenants with jobs in every state."""
    handlers = load(Settings.model_fields["handlers"].default)
    slugs = {name: f"{name}-{secrets.token_hex(4)}" for name in ("one", "other")}
    identities: dict[str, str] = {}
    with database.plumbing() as tx:
        workers.remember_commands(tx, describe(handlers))
        for name, slug in slugs.items():
            tenant = keys.add_tenant(tx, slug, name)
            assert tenant
            identities[name] = keys.add_key(tx, tenant.id, "admin", name, payloads=True)[1]
        identities["platform"] = keys.add_key(tx, None, "platform", "platform", payloads=True)[1]
    with running_intake(database, handlers, **settings) as api:
        for name in slugs:
            prepare(Api(api.url, {"submitter": identities[name]}), database, handlers)
        yield Target(api.url, identities, slugs["one"])


def prepare(api: Api, database: Database, handlers: Mapping[str, Handler]) -> None:
    """A job in each state, and dead ones of every kind several times, for what is replayed is dead no more."""
    bodies = [{"command": name, "payload": dict(handler.command.example)} for name, handler in handlers.items()]
    worker = uuid7()
    error = '{"code": "broken", "type": "ValueError", "message": "it broke", "traceback": "Trace"}'

    def begin(body: dict[str, Any]) -> Lease:
        job_id = UUID(api.accepted(body))
        with database.plumbing() as tx:
            workers.register(tx, worker, "worker", "0")
            attempts.begin(tx, worker, [(job_id, 1)], dict.fromkeys(handlers, 3600.0))
        return Lease(job_id, 1, worker)

    def end(lease: Lease, state: str, kind: str, reason: str | None) -> None:
        with database.plumbing() as tx:
            attempts.settle(tx, [End(lease.job_id, 1, worker, state, kind, reason, blame=True, error=error)])

    for body in bodies:
        api.accepted(body)
        api.accepted({**body, "delay": 3600, "labels": {"source": "fuzz"}})
        api.post(f"/v1/jobs/{api.accepted(body)}/cancel")
        begin(body)
        lease = begin(body)
        with database.plumbing() as tx:
            attempts.complete(tx, lease, "null")
        end(begin(body), "rejected", "rejected", None)
        for _ in range(4):
            end(begin(body), "dead", "buried", "permanent")
            lease = begin(body)
            with database.plumbing() as tx:
                calls.intend(tx, lease, "ship", 0, honours_key=False)
            end(lease, "dead", "buried", "needs_review")
    api.client.close()


def run(at: Target, seed: int, *, seconds: int | None = None, examples: int = 100, arguments: tuple[str, ...] = ()) -> tuple[int, str]:
    """Run schemathesis. Returns its exit status (0: it found nothing) and what it printed."""
    with tempfile.TemporaryDirectory(prefix="haulier-fuzz-") as directory:
        users = [
            {"name": name, "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {key}"}]} for name, key in at.identities.items()
        ]
        Path(directory, "auth.json").write_text(json.dumps({"auth": users}))
        Path(directory, "schemathesis.toml").write_text(configuration(directory))
        budget = ["--max-time", str(seconds)] if seconds else []
        command = [
            sys.executable, "-m", "schemathesis.cli", "--config-file", f"{directory}/schemathesis.toml", "--no-color",
            "run", f"{at.url}/openapi.json", "--checks", "all", "--seed", str(seed), "--max-examples", str(examples), *budget, *arguments,
        ]  # fmt: skip
        told = {"HAULIER_FUZZ_PLATFORM_KEY": at.identities["platform"], "HAULIER_FUZZ_TENANT": at.tenant}
        environment = os.environ | told | {"SCHEMATHESIS_HOOKS": "tests.intake.fuzz_hooks", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    return done.returncode, done.stdout


def configuration(directory: str) -> str:
    # NUL in a string is refused everywhere, which a schema could only say by a pattern on each: test_strict_json sends it.
    return f"""
continue-on-failure = true
# A batch of ten thousand on a busy machine.
request-timeout = 60
[auth.wfc]
path = "{directory}/auth.json"
peers = ["one", "other"]
[generation]
allow-x00 = false
database = "none"
# A 207 tells each item's status, and an item that breaks its schema is a 422 within.
# What is out of its schema may also be refused because something has changed since (412), or for its size.
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "406", "409", "412", "413", "414", "415", "422", "428", "429", "431", "5xx"]
[[operations]]
include-name = "POST /v1/jobs/batch"
[operations.checks.negative_data_rejection]
expected-statuses = ["207", "400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428", "429", "5xx"]
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.intake.fuzz")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("arguments", nargs="*", help="more for schemathesis, after --")
    wish = parser.parse_args()
    with PostgresServer() as server, fresh_database(server, "template0") as url:
        migrate(url)
        database = Database(url, size=8)
        with target(database) as at:
            status, printed = run(at, wish.seed, seconds=int(wish.minutes * 60), examples=100_000, arguments=tuple(wish.arguments))
        database.close()
    sys.stdout.write(printed)
    return status


if __name__ == "__main__":
    sys.exit(main())
