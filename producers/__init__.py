"""Where jobs come from: the HTTP intake, a caller's own transaction, and the relay that tells RabbitMQ."""
