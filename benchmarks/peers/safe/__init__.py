"""The peers once more, as safe as their own documentation makes them, with a handler that does not guard itself: for `python -m tests.chaos.peers`."""
