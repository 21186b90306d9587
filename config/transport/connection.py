"""The way between relay and worker, its connections: every wait on RabbitMQ has a deadline."""

from __future__ import annotations

import pika
from pika.exceptions import AMQPError

HEARTBEAT = 30
#: For how long RabbitMQ may refuse to read (memory or disk alarm) before the connection is given up.
BLOCKED_TIMEOUT = 10.0
CONNECT_TIMEOUT = 5.0

#: What a lost or refused connection raises; pika answers some losses with an assertion, and one that is reset as it opens with a ValueError.
AWAY = (AMQPError, OSError, AssertionError, ValueError)


def parameters(url: str, name: str) -> pika.URLParameters:
    """`name` is what RabbitMQ's own tools show for the connection."""
    values = pika.URLParameters(url)
    values.heartbeat = HEARTBEAT
    values.blocked_connection_timeout = BLOCKED_TIMEOUT
    values.socket_timeout = CONNECT_TIMEOUT
    values.stack_timeout = 2 * CONNECT_TIMEOUT
    values.client_properties = {"connection_name": f"haulier {name}"}
    return values
