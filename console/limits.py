"""`haulier limits`: how much a tenant may submit."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from console.client import connect
from console.failing import WrongUseError
from console.jobs import TenantSlug
from console.printing import Json, print_json, print_table

limits = typer.Typer(help="Limits: show, set.", no_args_is_help=True)


@limits.command("show")
def show_limits(tenant: TenantSlug = None, as_json: Json = False) -> None:
    """What was granted, what the tenant set for itself, and what holds."""
    _print(connect().get("/v1/limits", tenant=tenant), as_json)


@limits.command("set")
def set_limits(
    rate: Annotated[float | None, typer.Option(help="jobs a second, on average")] = None,
    burst: Annotated[int | None, typer.Option(help="…and at once, after a rest")] = None,
    key_rate: Annotated[float | None, typer.Option(help="the same of each key by itself")] = None,
    key_burst: Annotated[int | None, typer.Option(help="…and at once")] = None,
    open_jobs: Annotated[int | None, typer.Option(help="jobs that wait or run at a time")] = None,
    none: Annotated[bool, typer.Option("--none", help="take all of them away")] = False,
    tenant: TenantSlug = None,
    as_json: Json = False,
) -> None:
    """Replace what was granted (with a platform key and --tenant), or what the tenant set for itself: what is left out is not limited there."""
    wish = {"submissions": _rate("", rate, burst), "each_key": _rate("key-", key_rate, key_burst), "open_jobs": open_jobs}
    if none == any(value is not None for value in wish.values()):
        raise WrongUseError("say at least one limit, or --none to take all of them away; nothing changed")
    _print(connect().send("PUT", "/v1/limits", wish, {"if-match": "*"}, tenant=tenant), as_json)


def _rate(of: str, rate: float | None, burst: int | None) -> dict[str, Any] | None:
    if (rate is None) != (burst is None):
        raise WrongUseError(f"--{of}rate and --{of}burst go together; nothing changed")
    return None if rate is None else {"rate": rate, "burst": burst}


def _print(shown: Any, as_json: bool) -> None:
    if as_json:
        print_json(shown)
        return
    names = ("submissions", "each_key", "open_jobs")
    print_table(["", *names], [(of, *(_say(shown[of][name]) for name in names)) for of in ("granted", "own", "holds")])


def _say(limit: Any) -> str:
    match limit:
        case None:
            return "no limit"
        case {"rate": rate, "burst": burst}:
            return f"{rate:g} a second, {burst} at once"
        case _:
            return str(limit)
