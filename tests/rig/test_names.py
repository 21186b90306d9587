"""Our packages have plain names at the top level: nothing that is installed may have one of them too."""

from __future__ import annotations

from importlib.metadata import packages_distributions

OURS = {"config", "console", "ledger", "pipelines", "producers", "workers"}


def test_no_installed_distribution_provides_one_of_our_names() -> None:
    providers = packages_distributions()

    taken = {name: set(providers.get(name, [])) - {"haulier"} for name in OURS}

    assert not any(taken.values()), taken
