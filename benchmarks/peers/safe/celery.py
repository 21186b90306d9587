"""Celery on RabbitMQ: two workers of four processes.

Acknowledged after the job (`acks_late`) and given back when a process dies (`reject_on_worker_lost`); published with confirms (`confirm_publish`), and published
again by itself three times (its default); what runs when the connection is lost is ended, for it will be delivered again
(`cancel_long_running_tasks_on_connection_loss`); an error is tried again after one, two, four seconds, up to twenty times. Weakened (PEER_WEAK=1): acknowledged before the job,
which is its default, and unconfirmed, which is too.
"""

from __future__ import annotations

import os

from benchmarks.peers.celery import app
from benchmarks.peers.safe.effects import take_effect

if os.environ.get("PEER_WEAK"):
    app.conf.update(task_acks_late=False, task_reject_on_worker_lost=False)
else:
    app.conf.update(broker_transport_options={"confirm_publish": True}, worker_cancel_long_running_tasks_on_connection_loss=True)


@app.task(name="take", autoretry_for=(Exception,), retry_backoff=1, retry_backoff_max=10, max_retries=20)
def take(number: int) -> None:
    take_effect(number)


def submit(number: int) -> None:
    take.delay(number=number)
