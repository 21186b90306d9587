"""What a job costs as the work grows, in figures that do not drift with the machine: processor time, Postgres' buffers, bytes of WAL.

Real jobs (the durable effect, each in a transaction of its own) through the real `haulier relay`, `haulier work` and `haulier upkeep`.
"""
