"""What ends a `haulier` command early: told to a person as a sentence, never as a traceback."""

from __future__ import annotations


class FailedError(Exception):
    """The thing failed: exit status 1."""


class WrongUseError(Exception):
    """It was asked for in a way that cannot work: exit status 2."""
