"""What all tests share: real servers, each started when the first test needs it."""

from __future__ import annotations

pytest_plugins = ["tests.servers"]
