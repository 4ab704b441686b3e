"""Records figures about a process, deletes old records, and checks whether the process can do its work.

- `recorder`   takes a snapshot of the process and its connection pool every STATS_INTERVAL seconds
- `journal`    writes the snapshots and events to PostgreSQL, over a connection of its own
- `watcher`    compares snapshots and finds events, such as a leaked connection
- `loop_lag`   measures how late the event loop runs
- `pruner`     deletes rows whose retention has passed, and thins old snapshots
- `readiness`  checks whether the process can do its work now; `cached` is a cache with a time to live
- `metrics`    exports the same figures to Prometheus
- `serving`    opens a worker's HTTP port for readiness and metrics, METRICS_PORT; `probes` has its routes
"""
