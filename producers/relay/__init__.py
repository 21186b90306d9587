"""Carry the outbox to RabbitMQ, at least once: from the ledger's commit to a worker's wake-up."""
