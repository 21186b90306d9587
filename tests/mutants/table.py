"""The mutants: a file of the product, what stands there, what shall stand there instead, and the test that must not let it pass.

Some mistakes cost only time here, because what was lost is announced again: these have oracles of their own, which look for the mistake itself.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """`old` stands in the file exactly once. `test` is a pytest node id."""

    name: str
    file: str
    old: str
    new: str
    test: str


MUTANTS = (
    Mutant(
        "a message begins whatever attempt it expects",
        "ledger/attempts.py",
        "and j.state = 'queued' and j.attempt + 1 = ($2::jsonb ->> j.id::text)::integer\n",
        "and j.state = 'queued' and $2::jsonb is not null\n",
        "tests/ledger/test_attempts.py::test_a_message_that_expects_another_attempt_begins_nothing[embedded]",
    ),
    Mutant(
        "settle is not fenced",
        "ledger/attempts.py",
        "and j.id = e.job_id and j.state = 'running' and j.attempt = e.attempt and j.worker_id = e.worker_id",
        "and j.id = e.job_id and j.state = 'running'",
        "tests/ledger/test_attempts.py::test_a_slow_worker_cannot_complete_what_another_attempt_now_holds[embedded]",
    ),
    Mutant(
        "a set of successes is not fenced",
        "ledger/attempts.py",
        "j.state = 'running' and j.attempt = ($2::jsonb ->> j.id::text)::integer\n       and j.worker_id = $5::uuid",
        "j.state = 'running' and $2::jsonb is not null and $5::uuid is not null",
        "tests/ledger/test_attempts.py::test_another_worker_with_the_same_attempt_number_cannot_complete[embedded]",
    ),
    Mutant(
        "a completion is not fenced",
        "ledger/migrations/0005_roles.sql",
        "where id = job and state = 'running' and attempt = fence and worker_id = worker",
        "where id = job and state = 'running'",
        "tests/ledger/test_attempts.py::test_another_worker_with_the_same_attempt_number_cannot_complete[embedded]",
    ),
    Mutant(
        "a shared transaction is committed although one of its jobs was lost",
        "ledger/migrations/0020_ends_by_id.sql",
        "if held <> jsonb_array_length(successes) then",
        "if held = 0 then",
        "tests/workers/test_together.py::test_one_whose_lease_was_lost_takes_nobody_with_it",
    ),
    Mutant(
        "a rescued job is not announced",
        "ledger/attempts.py",
        "from settled where state in ('scheduled', 'queued'))",
        "from settled where state in ('scheduled'))",
        "tests/workers/test_executor.py::test_a_suspect_runs_alone_and_only_its_own_crash_counts",
    ),
    Mutant(
        "a delivery is acknowledged before its jobs are begun",
        "workers/executor.py",
        'begun, announced_at = self._begin(message)\n        reach("worker.after_begin")\n        delivery.acknowledge()\n',
        'delivery.acknowledge()\n        begun, announced_at = self._begin(message)\n        reach("worker.after_begin")\n',
        "tests/workers/test_executor.py::test_a_delivery_is_acknowledged_when_its_jobs_are_begun_and_not_before",
    ),
    Mutant(
        "what was sent counts as confirmed",
        "config/transport/stream.py",
        '        except AWAY as error:\n            self._settle(batch.tags, f"lost: {error!r}")\n',
        '            self._settle(batch.tags, None)\n        except AWAY as error:\n            self._settle(batch.tags, f"lost: {error!r}")\n',
        "tests/transport/test_rabbitmq_transport.py::test_only_the_messages_that_were_returned_are_reported",
    ),
    Mutant(
        "what was not confirmed stays marked as announced",
        "producers/relay/relay.py",
        "                outbox.unmark(tx, ids)\n",
        "                pass\n",
        "tests/relay/test_relay.py::test_what_is_not_confirmed_is_announced_again",
    ),
    Mutant(
        "the relay reads the outbox by a cursor",
        "ledger/outbox.py",
        "            and o.due_at between s.since and now() and o.command = any(%(known)s)",
        "            and o.due_at between s.since and now() and o.command = any(%(known)s)\n"
        "       and o.job_id > all(select job_id from haulier.outbox where announced_at is not null)",
        "tests/ledger/test_outbox.py::test_an_unconfirmed_row_is_claimed_again[embedded]",
    ),
    Mutant(
        "202 is answered before the commit",
        "producers/intake/writing.py",
        "        return Outcome(jobs.submit(connection, submissions, wake=True))",
        '        connection.execute("commit")\n        connection.execute("begin")\n'
        "        return Outcome(jobs.submit(connection, submissions, wake=True))",
        "tests/intake/test_submitting.py::test_a_202_is_a_job_and_its_outbox_row_and_its_first_event",
    ),
    Mutant(
        "synchronous_commit is off",
        "ledger/connection.py",
        "if not (self._durable if durable is None else durable):",
        "if not durable:",
        "tests/intake/test_submitting.py::test_what_a_202_promises_is_on_disk",
    ),
    Mutant(
        "a follow-up and its outbox row are committed before the job's completion",
        "workers/executor.py",
        '            jobs.submit(driver, follow_ups)\n        reach("worker.before_complete")\n',
        '            jobs.submit(driver, follow_ups)\n            driver.pgconn.exec_(b"commit; begin")\n'
        "            driver.pgconn.exec_(b\"set local haulier.tenant = '%d'\" % job.tenant_id)\n"
        '        reach("worker.before_complete")\n',
        "tests/workers/test_executor.py::test_whose_lease_was_lost_its_effects_are_rolled_back",
    ),
    Mutant(
        "an attempt counts only once it has ended, so that a crash does not",
        "workers/outcome.py",
        'return End(job_id, attempt, worker_id, "scheduled", "failed", blame=True, wait=wait, solo=not lapsed.late, error=error)',
        'return End(job_id, attempt, worker_id, "scheduled", "failed", blame=False, wait=wait, solo=not lapsed.late, error=error)',
        "tests/workers/test_executor.py::test_a_suspect_runs_alone_and_only_its_own_crash_counts",
    ),
    Mutant(
        "each attempt calls under a key of its own",
        "workers/run.py",
        'call(f"{self.job_id}:{step}:{generation}")',
        'call(f"{self.job_id}:{step}:{generation}:{self.attempt}")',
        "tests/workers/test_run.py::test_an_unknown_outcome_is_asked_again_with_the_same_key_or_reviewed",
    ),
    Mutant(
        "a recorded call is made again",
        "workers/run.py",
        'if earlier is not None and earlier.state == "done":',
        'if earlier is not None and earlier.state == "gone":',
        "tests/workers/test_run.py::test_a_call_is_made_once_and_its_result_is_kept_for_the_next_attempt",
    ),
    Mutant(
        "a message of unknown jobs is acknowledged and forgotten",
        "workers/executor.py",
        "if len(there) < len(left):",
        "if len(there) > len(left):",
        "tests/workers/test_executor.py::test_a_message_that_names_jobs_nobody_knows_is_kept_as_an_orphan",
    ),
    Mutant(
        "a handler gets a transaction that was opened for another tenant",
        "workers/connections.py",
        "if fresh or self._open_for != tenant_id or",
        "if fresh or self._open_for is None or",
        "tests/workers/test_tenants.py::test_whatever_the_ones_before_did_each_sees_and_writes_its_own[each-3]",
    ),
    Mutant(
        "a replay begins the job's history anew",
        "ledger/dead_letters.py",
        "set state = 'queued', reason = null, failures = 0,",
        "set state = 'queued', reason = null, failures = 0, attempt = 0,",
        "tests/ledger/test_dead_letters.py::test_a_replay_keeps_job_history_and_original_payload[embedded]",
    ),
    Mutant(
        "the audit's seals leave the reason out",
        "ledger/sealing.py",
        "    facts = dict(zip(_NAMES, record, strict=True))\n",
        '    facts = dict(zip(_NAMES, record, strict=True)) | {"reason": None}\n',
        "tests/ledger/test_sealing.py::test_a_changed_record_is_named[reason]",
    ),
    Mutant(
        "a receiver's place is not given back",
        "pipelines/webhooks/lanes.py",
        "            lane.inside -= 1\n",
        "",
        "tests/webhooks/test_delivering.py::test_a_slow_receiver_holds_one_thread",
    ),
    Mutant(
        "what a relay has claimed is forgotten when the answer is lost",
        "producers/relay/relay.py",
        "            if self._unsure:\n                self._recollect(tx)\n",
        "",
        "tests/relay/test_relay.py::test_what_was_claimed_though_the_answer_was_lost_is_announced_all_the_same",
    ),
    Mutant(
        "a lone announcement that was refused counts as made",
        "producers/relay/relay.py",
        "                self._ahead.difference_update(ids)  # not marked yet: the claim that comes publishes it\n",
        "",
        "tests/relay/test_notices.py::test_what_is_known_to_be_refused_before_it_is_claimed_is_announced_by_its_claim",
    ),
    Mutant(
        "an idempotency key stands for any body",
        "producers/intake/writing.py",
        "return Accepted(job_id, repeated=True) if fingerprint == wish.fingerprint else KeyTaken()",
        "return Accepted(job_id, repeated=True)",
        "tests/intake/test_submitting.py::test_the_same_key_with_another_body_is_refused",
    ),
)
