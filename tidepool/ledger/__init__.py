"""From an attempt at a job to the commit.

- `batcher`   gathers jobs of one function while the connections are busy
- `ledger`    one batch from arguments to outcomes, in one transaction
- `tally`     counts outcomes and batches since the process started
"""
