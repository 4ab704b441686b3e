"""Runs jobs in batches, and stores each job's outcome in the transaction that makes the job's effect.

- `batcher`   gathers jobs of one function into batches while the connections are busy; counts batches and outcomes
- `ledger`    runs one batch in one transaction, from the jobs' arguments to their outcomes
- `outbox`    enqueues jobs in a transaction of the caller; `relay` copies them to Redis
"""
