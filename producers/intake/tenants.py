"""Tenants and their API keys. A key is shown once, when it is made."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path
from pydantic import ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from ledger import keys
from ledger.keys import Key, Tenant
from producers.intake.auth import Access, Administrator, Platform
from producers.intake.contract import problems
from producers.intake.dead_letters import Body, body_of, takes
from producers.intake.parts import Tx, parts_of
from producers.intake.problems import Problem, not_found
from producers.intake.representation import answer, page, utc
from producers.intake.views import Keys, NewKeyView, Role, Tenants, TenantView
from producers.submission import Moment

router = APIRouter(prefix="/v1", tags=["tenants and keys"])


class NewTenant(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"slug": "acme", "name": "Acme Corporation"}]})

    slug: str = Field(pattern="^[a-z0-9][a-z0-9-]{0,62}$")
    name: str = Field(min_length=1, max_length=200)


class NewKey(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"role": "submitter", "name": "the web shop"}]})

    role: Role
    name: str = Field(min_length=1, max_length=200, description="whose it is, or what for")
    expires_at: Moment | None = None
    payloads: bool = Field(False, description="whether it shows payloads, results and tracebacks")


class Rotation(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"overlap": 3600, "reason": "the yearly change"}]})

    overlap: float = Field(
        3600, ge=0, le=30 * 86400, allow_inf_nan=False, description="seconds for which the old key is still good; 0 ends it at once"
    )
    expires_at: Moment | None = Field(None, description="of the new key; by default it lives as long as the old one was to live")
    reason: Annotated[str, Field(min_length=1, max_length=1000, description="for the audit")] | None = None


Prefix = Annotated[str, Path(max_length=36, description="or its id")]


@router.get("/tenants", response_model=Tenants)
def list_tenants(request: Request, access: Platform) -> Response:
    """Every tenant, by slug."""
    return parts_of(request).door.use_for(access, lambda tx: answer(page([_show_tenant(tenant) for tenant in keys.list_tenants(tx)])))


@router.post(
    "/tenants",
    status_code=201,
    response_model=TenantView,
    responses=problems(408, "slug-taken", 413, 415, "invalid"),
    openapi_extra=takes(NewTenant),
)
def add_tenant(request: Request, access: Platform, wish: Annotated[NewTenant, Depends(body_of(NewTenant))]) -> Response:
    """Its first key comes from POST /v1/keys?tenant=<slug>."""

    def add(tx: Tx) -> Response:
        tenant = keys.add_tenant(tx, wish.slug, wish.name)
        if tenant is None:
            raise Problem("slug-taken", f"there is a tenant {wish.slug!r} already; nothing changed")
        access.audit(tx, tenant.id, "tenant.create", tenant.slug)
        return answer(_show_tenant(tenant), 201)

    return parts_of(request).door.use_for(access, add)


@router.get("/keys", response_model=Keys)
def list_keys(request: Request, access: Administrator) -> Response:
    """Revoked and expired ones too; with ?tenant=* the platform's own as well."""
    return parts_of(request).door.use_for(
        access, lambda tx: answer(page([_show_key(key) for key in keys.list_keys(tx, access.tenants(tx))]))
    )


@router.post("/keys", status_code=201, response_model=NewKeyView, responses=problems(408, 413, 415, "invalid"), openapi_extra=takes(NewKey))
def add_key(request: Request, access: Administrator, wish: Annotated[NewKey, Depends(body_of(NewKey))]) -> Response:
    """A platform key says whose with ?tenant=<slug>; without it, it makes another platform key."""

    def add(tx: Tx) -> Response:
        tenant_id = _owner(tx, access, wish.role)
        facts: dict[str, Any] = {"role": wish.role, "payloads": wish.payloads, "name": wish.name}
        key_id, key = keys.add_key(tx, tenant_id, wish.role, wish.name, payloads=wish.payloads, expires_at=wish.expires_at)
        access.audit(tx, tenant_id, "key.create", keys.read_prefix(key), expires_at=wish.expires_at, **facts)
        tenant = None if tenant_id is None else access.wanted or access.key.tenant
        return answer(_show_new_key(key_id, key, tenant, wish.expires_at, facts), 201)

    return parts_of(request).door.use_for(access, add)


def _owner(tx: Tx, access: Access, role: str) -> int | None:
    if role != "platform":
        return access.tenant_id(tx)
    if access.key.role != "platform":
        raise Problem("forbidden", "only a platform key may make a platform key")
    if access.wanted is not None:
        raise Problem("malformed-request", "a platform key belongs to no tenant; leave ?tenant= out")
    return None


@router.delete("/keys/{prefix}", status_code=204, response_class=Response)
def revoke_key(request: Request, access: Administrator, prefix: Prefix) -> Response:
    """It is refused everywhere within five seconds."""

    def revoke(tx: Tx) -> None:
        found = _find_key(tx, access, prefix)
        if not keys.revoke_key(tx, found.prefix):
            raise not_found(f"live key {prefix!r}")
        access.audit(tx, found.tenant_id, "key.revoke", found.prefix, name=found.name, role=found.role)

    parts_of(request).door.use_for(access, revoke)
    return Response(None, 204)


@router.post(
    "/keys/{prefix}/rotate",
    status_code=201,
    response_model=NewKeyView,
    responses=problems(408, 413, 415, "invalid"),
    openapi_extra=takes(Rotation),
)
def rotate_key(request: Request, access: Administrator, prefix: Prefix, wish: Annotated[Rotation, Depends(body_of(Rotation))]) -> Response:
    """A new key that may do the same. The old one is good for the overlap, so that whoever uses it can change over."""

    def rotate(tx: Tx) -> Response:
        old = _find_key(tx, access, prefix)
        made = keys.rotate_key(tx, old.prefix, wish.overlap, wish.expires_at)
        if made is None:
            raise not_found(f"live key {prefix!r}")
        key_id, key, expires_at = made
        access.audit(tx, old.tenant_id, "key.rotate", old.prefix, reason=wish.reason, new=keys.read_prefix(key), overlap=wish.overlap)
        facts: dict[str, Any] = {"role": old.role, "payloads": old.payloads, "name": old.name}
        return answer(_show_new_key(key_id, key, old.tenant, expires_at, facts), 201)

    return parts_of(request).door.use_for(access, rotate)


def _find_key(tx: Tx, access: Access, prefix: str) -> Key:
    found = next((key for key in keys.list_keys(tx, access.tenants(tx)) if prefix in {key.prefix, str(key.id)}), None)
    if found is None:
        raise not_found(f"live key {prefix!r}")
    return found


def _show_new_key(key_id: UUID, key: str, tenant: str | None, expires_at: datetime | None, facts: dict[str, Any]) -> dict[str, Any]:
    return {"id": key_id, "prefix": keys.read_prefix(key), "tenant": tenant, "expires_at": utc(expires_at), "key": key, **facts}


def _show_tenant(tenant: Tenant) -> dict[str, Any]:
    return {"slug": tenant.slug, "name": tenant.name, "created_at": utc(tenant.created_at)}


def _show_key(key: Key) -> dict[str, Any]:
    times: dict[str, datetime | None] = {
        name: utc(getattr(key, name)) for name in ("created_at", "expires_at", "revoked_at", "last_used_at")
    }
    fields = {name: getattr(key, name) for name in ("id", "prefix", "role", "payloads", "name", "tenant")}
    return {**fields, **times}
