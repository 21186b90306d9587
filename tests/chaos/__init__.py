"""Chaos: the product under load while everything around it breaks, and a checker that reads from files whether it kept its promises.

`make chaos`, or `python -m tests.chaos`.
"""
