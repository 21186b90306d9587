"""Where jobs come from: the HTTP intake, a caller's own transaction, and the relay that tells RabbitMQ."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ledger.jobs import Unique
    from ledger.unique import HeldError
    from producers.submission import InvalidSubmission, KeyReusedError, UnknownCommandError, submit, wake

__all__ = ["HeldError", "InvalidSubmission", "KeyReusedError", "Unique", "UnknownCommandError", "submit", "wake"]


def __getattr__(name: str) -> Any:
    """Imported when it is first asked for (PEP 562): who only has the client shall not wait half a second for the ledger's half."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("producers.submission"), name)
