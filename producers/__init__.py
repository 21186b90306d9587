"""Where jobs come from: the HTTP intake, a caller's own transaction, and the relay that tells RabbitMQ."""

from __future__ import annotations

from ledger.jobs import Unique
from ledger.unique import HeldError
from producers.submission import InvalidSubmission, KeyReusedError, UnknownCommandError, submit, wake

__all__ = ["HeldError", "InvalidSubmission", "KeyReusedError", "Unique", "UnknownCommandError", "submit", "wake"]
