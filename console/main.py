"""`haulier`: every command that people type, by name. Exit status 0: done; 1: the thing failed; 2: wrong use."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable

import typer

from config.settings import MissingSettingError
from console.failing import FailedError, WrongUseError
from console.printing import complain

#: By name, as package.module:NAME, in the order of the help.
COMMANDS = {
    "dev": "console.dev.supervisor:dev",
    "serve": "console.processes:serve",
    "relay": "console.processes:relay",
    "work": "console.processes:work",
    "upkeep": "console.processes:upkeep",
    "migrate": "console.migrating:migrate",
    "logins": "console.logins:logins",
    "check": "console.checking:check",
    "commands": "console.commands:commands",
    "submit": "console.submitting:submit",
    "jobs": "console.jobs:jobs",
    "dead": "console.dead:dead",
    "webhooks": "console.webhooks:webhooks",
    "limits": "console.limits:limits",
    "keys": "console.access:keys",
    "tenants": "console.access:tenants",
    "tokens": "console.tokens:tokens",
    "audit": "console.audit:audit",
}


def assemble(names: Iterable[str]) -> typer.Typer:
    app = typer.Typer(name="haulier", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(haulier)
    for name in names:
        module, _, attribute = COMMANDS[name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def haulier() -> None:
    """The job backend: commands in over HTTP, carried out exactly once."""


def main() -> None:
    # Only what is called is imported: a client's command shall not wait for the server's half.
    called = sys.argv[1:2]
    app = assemble(called if set(called) & COMMANDS.keys() else COMMANDS)
    try:
        app(prog_name="haulier")
    except (MissingSettingError, WrongUseError) as error:
        complain(str(error))
        sys.exit(2)
    except FailedError as error:
        complain(str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
