"""The HTTP door: check, submit, 202; and what clients and operators see of their jobs."""
