"""For operators and their machines: the commands there are, orphan messages, health, and metrics."""

from __future__ import annotations

import base64
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy.exc
from fastapi import APIRouter, Depends, Path
from starlette.requests import Request
from starlette.responses import Response

from config import metrics
from ledger import migrate, orphans
from pipelines.command import Handler, canonical, version_of
from pipelines.load import versions_of
from pipelines.schemas import publish
from producers.intake.auth import READ, Access, may, only_platform
from producers.intake.cursor import Cursor, Limit, cut, read_cursor
from producers.intake.parts import Parts, Tx, parts_of
from producers.intake.problems import LOST, Problem
from producers.intake.representation import answer, page, utc
from producers.intake.views import Commands, CommandView, Orphans, ReadyView
from producers.strict_json import MAX_NODES
from producers.submission import UnknownCommandError

router = APIRouter(tags=["operating"])


@router.get("/v1/commands", response_model=Commands, dependencies=[Depends(may(READ))])
def list_commands(request: Request) -> Response:
    """Every command and every version of it, by name."""
    parts = parts_of(request)
    return answer(page([_show(parts, parts.handlers[name]) for name in sorted(parts.handlers, key=version_of)]))


@router.get("/v1/commands/{name}", response_model=CommandView, dependencies=[Depends(may(READ))])
def show_command(request: Request, name: Annotated[str, Path(max_length=200)]) -> Response:
    """Its schemas, error codes, and an example that is accepted as it stands. A name without a version is version 1."""
    parts = parts_of(request)
    handler = parts.handlers.get(canonical(name))
    if handler is None:
        raise Problem("not-found", str(UnknownCommandError(name, parts.handlers)))
    return answer(_show(parts, handler))


def _show(parts: Parts, handler: Handler) -> dict[str, Any]:
    return {
        "name": handler.name,
        "version": version_of(handler.name)[1],
        "latest": handler.name == versions_of(handler.name, parts.handlers)[-1],
        "deprecated_at": utc(handler.deprecated),
        "sunset_at": utc(handler.sunset),
        "description": (handler.command.__doc__ or "").strip(),
        "queue": handler.queue,
        "timeout": handler.timeout,
        "retry": {"max_failures": handler.retry.max_failures},
        "limits": {"body_bytes": parts.settings.max_job_bytes, "depth": parts.settings.max_depth, "values": MAX_NODES},
        **publish(handler),
        "example": dict(handler.command.example),
        "on_rejected": handler.on_rejected.command_name if handler.on_rejected else None,
        "on_dead": handler.on_dead.command_name if handler.on_dead else None,
    }


@router.get("/v1/orphan-messages", response_model=Orphans)
def list_orphan_messages(
    request: Request, access: Annotated[Access, Depends(only_platform)], limit: Limit = 50, cursor: Cursor = None
) -> Response:
    """Messages that named no readable job, raw, with why. The newest first."""
    before = read_cursor(cursor, "orphans")

    def read(tx: Tx) -> Response:
        found, next_cursor = cut(orphans.newest(tx, before, limit + 1), limit, "orphans", _id_of)
        return answer(page([_show_orphan(orphan) for orphan in found], next_cursor))

    return parts_of(request).door.use_for(access, read)


def _id_of(orphan: orphans.Orphan) -> UUID:
    return orphan[0]


def _show_orphan(orphan: orphans.Orphan) -> dict[str, Any]:
    orphan_id, queue, body, headers, reason, times, received_at, last_at = orphan
    return {
        "id": orphan_id,
        "queue": queue,
        "body": base64.b64encode(body).decode(),
        "headers": headers,
        "reason": reason,
        "times": times,
        "received_at": utc(received_at),
        "last_at": utc(last_at),
    }


@router.get("/livez", responses={200: {"description": "The process runs"}})
async def livez() -> Response:
    """Looks at nothing outside the process."""
    return answer({"alive": True})


@router.get("/readyz", response_model=ReadyView, responses={503: {"model": ReadyView, "description": "It cannot accept"}})
def readyz(request: Request) -> Response:
    """Whether it can accept. The broker is shown, and being away does not make an intake unready."""
    parts = parts_of(request)
    database = _database_problem(parts)
    transport = parts.transport_problem() if parts.transport_problem else None
    dependencies = {
        "process": _dependency("leaving" if parts.leaving else None),
        "database": _dependency(database),
        "broker": _dependency(transport, needed=False),
    }
    ready = not parts.leaving and database is None
    return answer({"ready": ready, "dependencies": dependencies}, 200 if ready else 503, {} if ready else {"retry-after": "2"})


def _dependency(problem: str | None, *, needed: bool = True) -> dict[str, Any]:
    return {"ok": problem is None, "needed": needed, "detail": problem}


def _database_problem(parts: Parts) -> str | None:
    """Why the ledger cannot be written to by this release, or None."""
    database = parts.door.database
    try:
        with database.plumbing(3) as tx:
            row = tx.execute("select pg_is_in_recovery()").fetchone()
            if row and row[0]:
                return "it is a standby, and takes no writes"
            return migrate.problem(tx)
    except (*LOST, sqlalchemy.exc.SQLAlchemyError) as error:
        return f"it cannot be reached: {type(error).__name__}"


@router.get("/metrics", responses={200: {"content": {"text/plain": {}}, "description": "Prometheus' text format"}})
def show_metrics() -> Response:
    """Every name begins with haulier_."""
    return Response(metrics.expose(), media_type="text/plain; version=0.0.4; charset=utf-8")
