"""`GET /v1/audit`: who changed what, when, from where and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from ledger import audit
from ledger.audit import Filter, Record
from producers.intake.auth import Administrator
from producers.intake.cursor import Cursor, Limit, cut, read_cursor
from producers.intake.parts import Tx, parts_of
from producers.intake.representation import answer, page, utc
from producers.intake.views import AuditRecords
from producers.submission import Moment

router = APIRouter(prefix="/v1", tags=["tenants and keys"])


@router.get("/audit", response_model=AuditRecords)
def list_audit(
    request: Request,
    access: Administrator,
    action: Annotated[str | None, Query(max_length=200, description="only this, as job.replay")] = None,
    who: Annotated[str | None, Query(max_length=200, description="only by this key (key:<prefix>) or account (console:<account>)")] = None,
    target: Annotated[str | None, Query(max_length=200, description="only to this job, key, webhook, tenant")] = None,
    made_after: Annotated[Moment | None, Query(description="only what was done after this time")] = None,
    made_before: Annotated[Moment | None, Query(description="only what was done before this time")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """What people and keys changed, the newest first. `haulier audit verify` walks along the seals."""
    about = repr(("audit", action, who, target, made_after, made_before))
    wanted = Filter(action, who, target, made_after, made_before, read_cursor(cursor, about))

    def read(tx: Tx) -> Response:
        found = audit.list_records(tx, access.tenants(tx), wanted, limit + 1)
        shown, next_cursor = cut(found, limit, about, lambda record: record.id)
        slugs = access.slugs(tx) or {access.key.tenant_id: access.key.tenant}
        return answer(page([_show(record, slugs) for record in shown], next_cursor))

    return parts_of(request).door.use_for(access, read)


def _show(record: Record, slugs: Mapping[Any, str | None]) -> dict[str, Any]:
    return {
        "id": record.id,
        "at": utc(record.at),
        "tenant": slugs.get(record.tenant_id),
        "who": record.who,
        "origin": record.origin,
        "action": record.action,
        "target": record.target,
        "reason": record.reason,
        "data": record.data,
        "seal": None if record.seq is None or record.hash is None else {"seq": record.seq, "hash": record.hash.hex()},
    }
