"""Handlers of many: for a command whose jobs are cheaper done together than one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, LiteralString, TypeVar, Unpack

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from pipelines.command import Command, Handler, Policy, tie
from pipelines.run import Answer, Run

C = TypeVar("C", bound=Command)
Many = Callable[[Sequence[C], "Together"], Sequence[Any] | None]


@dataclass(frozen=True, slots=True)
class Together:
    """The attempts of jobs that are carried out in one call, in the order of their commands: for each one's follow-ups and log lines."""

    runs: Sequence[Run]

    def transaction(self) -> AbstractContextManager[Connection]:
        """The one transaction of all of them: it commits together with their completions, or not at all."""
        return self.runs[0].transaction()

    def execute(self, statement: LiteralString, *values: Any) -> Answer:
        """One statement of it, as `Run.execute`."""
        return self.runs[0].execute(statement, *values)

    def defer(self, statement: LiteralString, *values: Any) -> None:
        """One whose answer nobody needs, as `Run.defer`."""
        self.runs[0].defer(statement, *values)

    def session(self) -> AbstractContextManager[Session]:
        """The same through the ORM."""
        return self.runs[0].session()


def handles_many(command: type[C], *, queue: str, most: int = 100, **policy: Unpack[Policy]) -> Callable[[Many[C]], Handler]:
    """Tie a function to its command that carries out up to `most` jobs of one tenant in one call and one transaction.

    It returns an answer for each, in order (a result, `Rejected`, `Snooze`, or an exception: a failure; for all but a result it must have
    written nothing), or None where all of them succeeded. When it raises, all is rolled back, and it is called again with each by itself.
    `timeout` is that of a call. As in a shared transaction, there is no `read` and no `once`.
    """

    def wrap(function: Many[C]) -> Handler:
        def one(only: C, run: Run) -> Any:
            answers = function([only], Together([run]))
            if answers is None:
                return None
            if len(answers) != 1:
                raise ValueError(f"the handler of {command.command_name} gave {len(answers)} answers for 1 job")
            if isinstance(answers[0], BaseException):
                raise answers[0]
            return answers[0]

        return tie(command, one, queue, policy, together=most, many=function)

    return wrap
