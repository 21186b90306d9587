"""Postgres refuses to run as root: which account it runs as then, and what that account can reach."""

from __future__ import annotations

import hashlib
import os
import pwd
import secrets
import shutil
import subprocess
from pathlib import Path

from console.servers.process import ServerError

#: Where every account gets to, and what survives a restart of the machine.
REACHABLE = Path("/var/tmp")  # noqa: S108 - what is made there is checked to be ours


def unprivileged() -> tuple[int, int] | None:
    """User and group for Postgres when we are root; None when we are not and may stay who we are."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        return account.pw_uid, account.pw_gid
    raise ServerError("Postgres does not run as root, and there is no account `postgres` or `nobody` to run it as; start as another user")


def reaches(account: tuple[int, int], path: Path, wanted: str = "-x") -> bool:
    """Asked of the kernel, as that account: modes of every directory above, mounts and lists of access all count."""
    user, group = account
    return subprocess.run(["test", wanted, str(path)], user=user, group=group, extra_groups=[], check=False).returncode == 0


def stand_in(directory: Path) -> Path:
    """The directory that is used for an unreachable one: always the same for it."""
    return REACHABLE / f"haulier-{hashlib.sha256(bytes(directory)).hexdigest()[:16]}"


def make_own(directory: Path, account: tuple[int, int]) -> None:
    """Make it, or see that nobody but root or the account made it: everybody may write where it lies."""
    directory.mkdir(mode=0o711, exist_ok=True)
    state = directory.lstat()
    if not directory.is_dir() or directory.is_symlink() or state.st_uid not in (0, account[0]):
        raise ServerError(f"{directory} must be a directory of root's, but belongs to user {state.st_uid}; remove it")


def reachable_copy(package: Path, version: str, account: tuple[int, int]) -> Path:
    """A copy of a package that the account cannot reach, made once for each version, with the libraries that its wheel put beside it."""
    copy = REACHABLE / f"haulier-{package.name}-{version}-{hashlib.sha256(bytes(package)).hexdigest()[:16]}"
    if not copy.exists():
        fresh = copy.with_name(f"{copy.name}-{secrets.token_hex(4)}")
        for tree in (package, package.with_name(f"{package.name}.libs")):
            if tree.exists():
                shutil.copytree(tree, fresh / tree.name, symlinks=True, ignore=shutil.ignore_patterns("include"))
        _let_everybody_read(fresh)
        try:
            fresh.rename(copy)
        except OSError:  # another process was faster
            shutil.rmtree(fresh)
    make_own(copy, account)
    return copy / package.name


def _let_everybody_read(directory: Path) -> None:
    for path in [directory, *directory.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
