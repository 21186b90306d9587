"""The Python client of an intake: `Client`, and `AsyncClient` for an event loop. Both drive the same operations (`operations`)."""

from __future__ import annotations

from producers.client.drivers import AsyncClient, Client
from producers.client.following import Event
from producers.client.operations import Batch, CallError, NoResultError, ProblemError, UnreachableError

__all__ = ["AsyncClient", "Batch", "CallError", "Client", "Event", "NoResultError", "ProblemError", "UnreachableError"]
