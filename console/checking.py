"""`haulier check`: the settings as they stand, whether what they name can be reached, and whether it is fit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import redis
import typer
from pika.adapters.blocking_connection import BlockingConnection
from redis.exceptions import RedisError

from config.settings import Settings
from config.transport import topology
from config.transport.connection import AWAY as BROKER_AWAY
from config.transport.connection import parameters
from console.printing import Json, print_facts, print_json, print_table
from console.starting import AWAY, account_problems, load_handlers, problems_of, read_settings
from ledger.roles import SERVICES
from pipelines.load import queues_of


def check(as_json: Json = False) -> None:
    """Check settings, connections, schema and topology; says what to do about what is wrong."""
    settings = read_settings()
    checks: dict[str, Callable[[Settings], list[str]]] = {"database": _check_database, "account": _check_account, "broker": _check_broker}
    settings.need_database()
    settings.need_broker()
    if settings.redis_url is not None:
        checks["redis"] = _check_redis
    found = {name: look(settings) for name, look in checks.items()}
    healthy = not any(found.values())
    if as_json:
        rows = [{"name": name, "ok": not problems, "problems": problems} for name, problems in found.items()]
        print_json({"ok": healthy, "settings": settings.effective(), "checks": rows})
    else:
        print_facts(settings.effective())
        print()
        print_table(["check", "", "what to do"], [(name, "wrong" if bad else "good", "\n".join(bad)) for name, bad in found.items()])
    raise typer.Exit(0 if healthy else 1)


def _check_database(settings: Settings) -> list[str]:
    try:
        return problems_of(settings.need_database())
    except AWAY as error:
        return [f"it cannot be reached ({_first_line(error)}); start it, or correct HAULIER_DATABASE_URL"]


def _check_account(settings: Settings) -> list[str]:
    """Whether the account that logs in may run a service, whichever."""
    url = settings.need_database()
    try:
        found = [account_problems(url, roles) for roles in SERVICES.values()]
    except AWAY:
        return ["whether it may work here is not known while the database is away"]
    return min(found, key=len)


def _check_broker(settings: Settings) -> list[str]:
    queues = queues_of(load_handlers(settings))
    try:
        with contextlib.closing(BlockingConnection(parameters(settings.need_broker(), "check"))) as connection:
            return topology.check(connection.channel(), queues)
    except BROKER_AWAY as error:
        return [f"it cannot be reached ({_first_line(error)}); start it, or correct HAULIER_BROKER_URL"]


def _check_redis(settings: Settings) -> list[str]:
    assert settings.redis_url is not None
    try:
        with contextlib.closing(redis.Redis.from_url(settings.redis_url.get_secret_value(), socket_timeout=5)) as client:
            client.ping()
    except RedisError as error:
        return [f"it cannot be reached ({_first_line(error)}); start it, or unset HAULIER_REDIS_URL"]
    return []


def _first_line(error: Exception) -> str:
    lines = (str(error) or repr(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__
