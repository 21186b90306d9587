"""`haulier tokens`: the secret that signs watch tokens."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from console.access import ledger
from console.auditing import note
from ledger import tokens as ledger_tokens
from producers.intake.watching import LONGEST_LIFE

tokens = typer.Typer(help="Watch tokens: what signs them.", no_args_is_help=True)


@tokens.callback()
def main() -> None:
    """Watch tokens: what signs them."""  # with a callback, a lone command keeps its name


@tokens.command("rotate")
def rotate(
    now: Annotated[bool, typer.Option("--now", help="void what is out there: every watch token is refused within seconds")] = False,
) -> None:
    """Sign watch tokens with a new secret. Those that are out there are good until they run out, unless --now."""
    with ledger() as tx, tx.transaction():
        ledger_tokens.rotate(tx, timedelta(0) if now else timedelta(seconds=LONGEST_LIFE))
        note(tx, None, "token_secret.rotate", "watch tokens", now=now)
    print(
        "watch tokens are signed with a new secret; " + ("all others are void" if now else "those that are out there run out by themselves")
    )
