"""Tenants and their API keys. A key is shown once, when it is made."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from pydantic import ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from ledger import keys
from ledger.keys import Key, Tenant
from producers.intake.auth import Access, Administrator, only_platform
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


Platform = Annotated[Access, Depends(only_platform)]


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
    tenant = parts_of(request).door.use_for(access, lambda tx: keys.add_tenant(tx, wish.slug, wish.name))
    if tenant is None:
        raise Problem("slug-taken", f"there is a tenant {wish.slug!r} already; nothing changed")
    return answer(_show_tenant(tenant), 201)


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
        key_id, key = keys.add_key(tx, tenant_id, wish.role, wish.name, payloads=wish.payloads, expires_at=wish.expires_at)
        shown = {
            "id": key_id,
            "prefix": keys.read_prefix(key),
            "role": wish.role,
            "payloads": wish.payloads,
            "name": wish.name,
            "tenant": None if tenant_id is None else access.wanted or access.key.tenant,
            "expires_at": utc(wish.expires_at),
            "key": key,
        }
        return answer(shown, 201)

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
def revoke_key(request: Request, access: Administrator, prefix: Annotated[str, Path(max_length=36, description="or its id")]) -> Response:
    """It is refused everywhere within five seconds."""

    def revoke(tx: Tx) -> None:
        found = next((key for key in keys.list_keys(tx, access.tenants(tx)) if prefix in {key.prefix, str(key.id)}), None)
        if found is None or not keys.revoke_key(tx, found.prefix):
            raise not_found(f"live key {prefix!r}")

    parts_of(request).door.use_for(access, revoke)
    return Response(None, 204)


def _show_tenant(tenant: Tenant) -> dict[str, Any]:
    return {"slug": tenant.slug, "name": tenant.name, "created_at": utc(tenant.created_at)}


def _show_key(key: Key) -> dict[str, Any]:
    times: dict[str, datetime | None] = {name: utc(getattr(key, name)) for name in ("created_at", "expires_at", "revoked_at")}
    fields = {name: getattr(key, name) for name in ("id", "prefix", "role", "payloads", "name", "tenant")}
    return {**fields, **times}
