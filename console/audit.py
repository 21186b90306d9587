"""`haulier audit`: what people and keys changed, and whether anybody has tampered with the record of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from console.access import ledger
from console.client import connect
from console.failing import FailedError, WrongUseError
from console.jobs import Cursor, Limit
from console.printing import Json, complain, print_json, print_table
from ledger import keys, sealing
from ledger.sealing import Flaw, Head, Walk

audit = typer.Typer(help="The audit: list it, verify its seals.", no_args_is_help=True)


@audit.command("list")
def list_audit(
    action: Annotated[str | None, typer.Option(help="only this, as job.replay")] = None,
    who: Annotated[str | None, typer.Option(help="only by this key (key:<prefix>) or account (console:<account>)")] = None,
    target: Annotated[str | None, typer.Option(help="only to this job, key, webhook, tenant")] = None,
    tenant: Annotated[str | None, typer.Option(help="of a platform key: a tenant's slug, or * for all")] = None,
    made_after: Annotated[datetime | None, typer.Option(help="UTC")] = None,
    made_before: Annotated[datetime | None, typer.Option(help="UTC")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
) -> None:
    """The newest first."""
    times = {name: f"{time.isoformat()}Z" if time else None for name, time in (("made_after", made_after), ("made_before", made_before))}
    query: dict[str, Any] = {"action": action, "who": who, "target": target, "tenant": tenant, "limit": limit, "cursor": cursor, **times}
    page = connect().get("/v1/audit", **query)
    if as_json:
        print_json(page)
        return
    names = ("at", "tenant", "who", "origin", "action", "target", "reason", "data")
    rows = [(*(each[name] for name in names), each["seal"]["seq"] if each["seal"] else None) for each in page["items"]]
    print_table([*names, "seal"], rows)
    if page["next_cursor"]:
        print(f"there is more: --cursor {page['next_cursor']}")


@audit.command("verify")
def verify_audit(
    anchor: Annotated[
        Path | None,
        typer.Option(help="what `haulier audit verify --json` printed on an earlier day, kept where nobody who can write here can write"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Walk along the seals of all tenants, in the database itself. Exit status 1, and every record that was changed, removed, put in or
    moved, if something does not hold. Without an anchor, who made a whole chain anew, or cut off its end and its head, is not found.
    """
    anchors = {} if anchor is None else _read_anchor(anchor)
    with ledger() as tx, tx.transaction():
        tx.execute("set transaction isolation level repeatable read")
        tx.execute("set local statement_timeout = 0")
        slugs: dict[int, str | None] = {sealing.PLATFORM: None} | {tenant.id: tenant.slug for tenant in keys.list_tenants(tx)}
        numbers = {slug: number for number, slug in slugs.items()}
        walk = sealing.verify(tx, {numbers[slug]: head for slug, head in anchors.items() if slug in numbers})
    gone = sorted(str(slug) for slug in anchors.keys() - numbers.keys())
    walk.flaws += [Flaw(sealing.PLATFORM, None, None, f"the anchor names a tenant {slug}, which is not there") for slug in gone]
    print_json(_facts(walk, slugs)) if as_json else _print(walk, slugs)
    if walk.flaws:
        raise FailedError(f"the audit does not hold: {len(walk.flaws)} flaw(s), see above")


def _read_anchor(path: Path) -> dict[str | None, Head]:
    """Raises WrongUseError."""
    try:
        chains = orjson.loads(path.read_bytes())["chains"]
        return {each["tenant"]: Head(int(each["seq"]), bytes.fromhex(each["hash"])) for each in chains}
    except OSError as error:
        raise WrongUseError(f"--anchor: {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise WrongUseError(f"--anchor must be what `haulier audit verify --json` printed, but {path} is not: {error!r}") from None


def _facts(walk: Walk, slugs: Mapping[int, str | None]) -> dict[str, Any]:
    chains = [{"tenant": slugs.get(number), "seq": head.seq, "hash": head.hash.hex()} for number, head in sorted(walk.heads.items())]
    flaws = [{"tenant": slugs.get(flaw.tenant), "seq": flaw.seq, "id": flaw.audit_id, "what": flaw.what} for flaw in walk.flaws]
    return {"chains": chains, "unsealed": walk.unsealed, "late": walk.late, "flaws": flaws}


def _print(walk: Walk, slugs: Mapping[int, str | None]) -> None:
    rows = [(slugs.get(number) or "(the platform)", head.seq, head.hash.hex()) for number, head in sorted(walk.heads.items())]
    print_table(["tenant", "seals", "last one"], rows)
    print(f"{walk.unsealed} record(s) wait for their seal")
    if walk.late:
        print(f"{walk.late} record(s) were sealed over an hour after they say they were made: upkeep was away, or they were put in later")
    for flaw in walk.flaws:
        place = f" at seal {flaw.seq}" if flaw.seq else ""
        record = f", record {flaw.audit_id}" if flaw.audit_id else ""
        complain(f"{slugs.get(flaw.tenant) or 'the platform'}{place}{record}: {flaw.what}")
