"""What an intake counts. No label names a tenant: there may be thousands."""

from __future__ import annotations

from config.metrics import Counter, Gauge, Histogram

REQUESTS = Counter("haulier_requests_total", "Requests answered", ["method", "route", "status"])
SECONDS = Histogram(
    "haulier_request_seconds", "Time to answer", ["method", "route"], buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 15)
)
ACCEPTED = Counter("haulier_jobs_accepted_total", "Jobs accepted", ["command"])
REPEATED = Counter("haulier_submissions_repeated_total", "Submissions whose Idempotency-Key named a job already there")
LIMITED = Counter("haulier_submissions_limited_total", "Submissions refused by a limit", ["limit"])
DENIED = Counter("haulier_requests_denied_total", "Requests without a valid key, or with one that may not do it", ["status"])
FINAL_JOBS = Counter("haulier_final_jobs_asked_total", "Looks for a final job in Redis, by what came of it", ["outcome"])
SET_SIZE = Histogram("haulier_commit_jobs", "Jobs written by one commit", buckets=(1, 2, 5, 10, 20, 50, 100, 200))

WAITING = Gauge("haulier_requests_waiting", "Requests that wait for a job to change")
STREAMS = Gauge("haulier_streams", "Streams of events that are open")
CUT_OFF = Counter("haulier_streams_cut_off_total", "Streams ended because their clients were too slow")
LOST_HINTS = Counter("haulier_hints_lost_total", "Jobs whose change was found by looking, before anybody told of it")
HINT_LAG = Histogram(
    "haulier_hint_lag_seconds", "From a commit to this intake's hearing of it", buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)
)
