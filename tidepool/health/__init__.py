"""Records the figures of a process, and answers questions about its health.

- `recorder`   writes a snapshot each tick, through `journal`; `watcher` and `loop_lag` see what happens in between
- `pruner`     deletes rows past their time, and thins old ones
- `readiness`  whether the process can do its work now; `kept` caches an answer for many callers
- `serving`    answers that, and `metrics`, on a worker's own port (by `probes`, imported only if there is one)

It reads the pool and the ledger's tally, and writes over a connection of its own.
"""
