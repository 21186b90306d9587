"""Processes that die: each step of a job's way, killed while real servers and real processes carry it."""
