"""Find the table of handlers that this installation runs, and describe it for the ledger."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pipelines.command import Handler, version_of
from pipelines.webhooks import OWN

_NAME = re.compile(r"[^@\s/]+(@([2-9]|[1-9][0-9]{1,3}))?")


def load(name: str) -> Mapping[str, Handler]:
    """The table that `name` (`package.module:NAME`) says, and the commands that are Haulier's own and in every installation.

    Raises ValueError that names what is wrong with it.
    """
    module_name, _, attribute = name.partition(":")
    try:
        table = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"HAULIER_HANDLERS must be package.module:NAME of a table of handlers, got {name!r}: {error}") from error
    wrong = [key for key, handler in table.items() if key != handler.name]
    if wrong:
        raise ValueError(f"{name} names {', '.join(wrong)} otherwise than their commands do")
    odd = [key for key in table if not _NAME.fullmatch(key)]
    if odd:
        raise ValueError(f"{name} names {', '.join(odd)}; a command's name is as orders.place, its second version orders.place@2")
    return {**table, **OWN}


def describe(handlers: Mapping[str, Handler]) -> list[dict[str, Any]]:
    """Rows for `ledger.workers.remember_commands`. Raises ValueError for a follow-up that is in no table."""
    return [_row(handler, handlers) for handler in handlers.values()]


def _row(handler: Handler, handlers: Mapping[str, Handler]) -> dict[str, Any]:
    follow_ups = {"on_rejected": handler.on_rejected, "on_dead": handler.on_dead}
    for end, command in follow_ups.items():
        if command is not None and command.command_name not in handlers:
            raise ValueError(f"{handler.name} names {command.command_name} as {end}, which is in no table of handlers")
    return {
        "name": handler.name,
        "queue": handler.queue,
        "max_failures": handler.retry.max_failures,
        "fields": sorted(handler.command.model_fields),
        **{end: command.command_name if command else None for end, command in follow_ups.items()},
    }


def versions_of(name: str, known: Iterable[str]) -> list[str]:
    """The kept names of every version of the command that this is one of, in order."""
    bare = name.partition("@")[0]
    return sorted((each for each in known if version_of(each)[0] == bare), key=version_of)


def queues_of(handlers: Mapping[str, Handler]) -> list[str]:
    """Every queue that these handlers use."""
    return sorted({handler.queue for handler in handlers.values()})
