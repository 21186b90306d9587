"""What a person changes from the command line, on the database itself, is recorded under the account that they have on this machine."""

from __future__ import annotations

import getpass
import os
import socket
from typing import Any

import psycopg

from ledger import audit


def note(tx: psycopg.Connection[Any], tenant_id: int | None, action: str, target: object, **data: Any) -> None:
    """In the transaction of the change. See `ledger.audit.record`."""
    audit.record(tx, tenant_id, f"console:{account()}", action, target, origin=socket.gethostname(), **data)


def account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's account without a name
        return str(os.getuid())
