"""The secrets that sign watch tokens: the installation's own, made by a migration, shared by all intakes, rotated with an overlap."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from psycopg import Connection

Tx = Connection[Any]


@dataclass(frozen=True, slots=True)
class Secret:
    """`id` is what a token names its secret by (`kid`)."""

    id: str
    secret: bytes = field(repr=False)


LIST = """
select id::text, secret from haulier.token_secrets where retires_at is null or retires_at > now() order by retires_at is null desc, made_at desc
"""


def list_secrets(tx: Tx) -> list[Secret]:
    """All whose tokens are good. The first one signs."""
    return [Secret(*row) for row in tx.execute(LIST)]


FORGET = "delete from haulier.token_secrets where retires_at <= now()"
RETIRE = "update haulier.token_secrets set retires_at = least(retires_at, now() + %s)"
ADD = "insert into haulier.token_secrets (secret) values (%s)"


def rotate(tx: Tx, overlap: timedelta) -> None:
    """Sign with a new secret from now on. Tokens that older ones signed are good for `overlap` more, at most. Three statements, one transaction."""
    tx.execute(FORGET)
    tx.execute(RETIRE, (overlap,))
    tx.execute(ADD, (secrets.token_bytes(32),))
