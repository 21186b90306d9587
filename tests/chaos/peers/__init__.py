"""Haulier and its peers under the same faults: `python -m tests.chaos.peers`."""
