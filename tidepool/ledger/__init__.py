"""Runs jobs in batches, and stores each job's outcome in the transaction of its effect.

- `batcher`   gathers jobs of one function into batches while the connections are busy
- `ledger`    runs one batch in one transaction, from the jobs' arguments to their outcomes
- `tally`     counts outcomes and batches since the process started
"""
