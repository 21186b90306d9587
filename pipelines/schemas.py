"""What a command publishes, and the committed file of it (`schemas.json`) that every change is held against (decision 0018).

Callers, and jobs that wait, rely on what was published: a change that is not surely compatible belongs into the next version.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import orjson

from pipelines.command import Handler, version_of
from pipelines.compatibility import Gap, gaps_for_callers, gaps_for_readers

Published = dict[str, Any]


def publish(handler: Handler) -> Published:
    """The schemas and error codes of a command, as GET /v1/commands shows them."""
    return {
        "payload_schema": handler.command.model_json_schema(),
        "result_schema": handler.result.model_json_schema(mode="serialization") if handler.result else None,
        "error_codes": dict(handler.error_codes),
    }


def publish_all(handlers: Mapping[str, Handler]) -> dict[str, Published]:
    return {name: publish(handlers[name]) for name in sorted(handlers, key=version_of)}


def file_of(table: str) -> Path:
    """Where the schemas of a table (`package.module:NAME`) are committed: beside its module."""
    source = importlib.import_module(table.partition(":")[0]).__file__
    assert source is not None
    return Path(source).with_name("schemas.json")


def read(path: Path) -> dict[str, Published]:
    """Nothing, where nothing was written yet."""
    return orjson.loads(path.read_bytes()) if path.exists() else {}


def write(path: Path, published: Mapping[str, Published]) -> None:
    path.write_bytes(orjson.dumps(published, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def refused(before: Mapping[str, Published], now: Mapping[str, Published]) -> list[str]:
    """What may not change in place, a sentence each."""
    found: list[str] = []
    for name, old in before.items():
        if name in now:
            found += [f"{name}: {what}; make it {_next(name, now)}" for what in _broken(old, now[name])]
        else:
            found.append(f"{name} is gone, and jobs may hold it; keep it, or take it out of the file by hand once none does")
    return found


def changes(before: Mapping[str, Published], now: Mapping[str, Published]) -> list[str]:
    """All that differs, a sentence each."""
    new = [f"{name} is new" for name in now if name not in before]
    return new + [f"{name}: {what}" for name, old in before.items() if name in now for what in _differences(old, now[name])]


def _next(name: str, now: Mapping[str, Published]) -> str:
    bare = version_of(name)[0]
    return f"{bare}@{1 + max(version_of(each)[1] for each in now if version_of(each)[0] == bare)}"


def _broken(old: Published, new: Published) -> Iterator[str]:
    for gap in gaps_for_callers(old["payload_schema"], new["payload_schema"]):
        yield _say("payload", gap, gap.narrow, gap.wide)
    for path, value in _leaves(old["payload_schema"]):
        if path.endswith("/writeOnly") and value is True and dict(_leaves(new["payload_schema"])).get(path) is not True:
            yield f"payload {path.removesuffix('/writeOnly')} was masked and would be shown"
    if old["result_schema"] is not None and new["result_schema"] is None:
        yield "the result's schema is gone"
    elif old["result_schema"] is not None:
        for gap in gaps_for_readers(old["result_schema"], new["result_schema"]):
            yield _say("result", gap, gap.wide, gap.narrow)
    yield from (f"the error code {code!r} is gone" for code in old["error_codes"] if code not in new["error_codes"])


def _say(part: str, gap: Gap, was: Any, now: Any) -> str:
    where = f"{part} {gap.path or '/'}"
    match gap.keyword:
        case "required":
            return f"{where} is newly required" if part == "payload" else f"{where} may be missing, and never was"
        case "gone":
            return f"{where} is gone"
        case "properties":
            return f"{where} is new, where further fields were ruled out"
        case "additionalProperties":
            return f"{where} takes no further fields any more, and jobs may hold them"
        case keyword:
            return f"{where}: {keyword} was {_short(was)} and is {_short(now)}"


def _differences(old: Published, new: Published) -> Iterator[str]:
    before, now = dict(_leaves(old)), dict(_leaves(new))
    for path in sorted(before.keys() | now.keys()):
        if path not in before:
            yield f"{path} is new: {_short(now[path])}"
        elif path not in now:
            yield f"{path} is gone, it was {_short(before[path])}"
        elif before[path] != now[path]:
            yield f"{path} was {_short(before[path])} and is {_short(now[path])}"


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a document that holds no others, by its JSON pointer."""
    if isinstance(node, dict) and node:
        for name, value in cast("dict[str, Any]", node).items():
            yield from _leaves(value, f"{path}/{name}")
    else:
        yield path, node


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    text = orjson.dumps(value).decode()
    return text if len(text) <= 80 else f"{text[:80]}…"
