"""Records the figures of a process, and answers questions about its health.

- `recorder`   takes a snapshot at each tick; `journal` writes it; `watcher` and `loop_lag` measure in between
- `pruner`     deletes rows whose retention has passed, and thins old ones
- `readiness`  checks whether the process can do its work now; `cached` caches an answer for many callers
- `serving`    opens a worker's own port for that and for `metrics` (`probes` is imported only if there is a port)

It reads the pool and the ledger's tally, and writes over a connection of its own.
"""
