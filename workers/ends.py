"""Write how attempts have ended, as soon as the database lets it, and tell those who wait for their jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

import psycopg
import structlog

from config.changes import Teller
from config.failpoints import reach
from ledger import attempts
from ledger.attempts import Begun, End, Success
from pipelines.command import Handler
from workers import metrics, outcome
from workers.connections import Connections

log = structlog.get_logger()


class Ends:
    """What the threads of one worker process share. `wake`: for what has become due by an end."""

    def __init__(
        self, worker_id: UUID, connections: Connections, handlers: Mapping[str, Handler], changes: Teller, wake: Callable[[], None]
    ) -> None:
        self._worker_id = worker_id
        self._connections = connections
        self._handlers = handlers
        self._changes = changes
        self._wake = wake

    def complete(self, finished: Sequence[Success], jobs: Sequence[Begun]) -> None:
        """Write the successes of these jobs."""
        reach("worker.before_complete_many")
        try:
            held = self._connections.riding_out(lambda tx: attempts.complete_many(tx, self._worker_id, finished))
        except psycopg.DataError as error:
            self._complete_singly(finished, jobs, error)
            return
        reach("worker.after_complete_many")
        self.tell(jobs)
        metrics.succeeded(len(held))
        if len(held) < len(finished):
            metrics.LEASES_LOST.inc(len(finished) - len(held))
            lost = [str(success.job_id) for success in finished if success.job_id not in held]
            log.warning("leases lost; these results are dropped", jobs=lost[:10], count=len(lost))

    def settle(self, end: End, job: Begun) -> None:
        """Write any other end."""
        reach("worker.before_settle")
        try:
            written = self._connections.riding_out(lambda tx: attempts.settle(tx, [end]))
        except psycopg.Error:  # the others of its set still have to be seen to
            log.exception("an attempt's end could not be written; upkeep takes its job back", job=str(end.job_id), attempt=end.attempt)
            return
        reach("worker.after_settle")
        self.tell([job])
        if not written:
            metrics.LEASES_LOST.inc()
            log.warning("lease lost; this attempt's end is not written", job=str(end.job_id), attempt=end.attempt)
            return
        metrics.ENDED.labels(end.kind).inc()
        if end.state in {"queued", "rejected", "dead"}:
            self._wake()  # it, or the follow-up of its end, is due now
        log.info("attempt ended", end=end.kind, job=str(end.job_id), attempt=end.attempt, state=written[end.job_id], reason=end.reason)

    def hand_back(self, left: Sequence[Begun]) -> None:
        """Begun and not started, and this process is stopping: queued again, blamed for nothing."""
        ends = [End(job.job_id, job.attempt, self._worker_id, "queued", "handed_back", solo=job.solo) for job in left]
        self._connections.riding_out(lambda tx: attempts.settle(tx, ends))
        self.tell(left)

    def tell(self, jobs: Sequence[Begun]) -> None:
        """After a commit, those who wait for these jobs. A microsecond each; it neither blocks nor fails."""
        for job in jobs:
            self._changes.tell(job.job_id, job.root_id, job.tenant_id)

    def _complete_singly(self, finished: Sequence[Success], jobs: Sequence[Begun], error: psycopg.DataError) -> None:
        """One of these results is nothing that the ledger can keep: its job has failed, and the others have not."""
        if len(finished) > 1:
            for success, job in zip(finished, jobs, strict=True):
                self.complete([success], [job])
            return
        [success], [job] = finished, jobs
        self.settle(outcome.judge(self._handlers[job.command], job, self._worker_id, error, success.log), job)
