"""How a process is, for those who ask: rows for the record, words for operators, text for Prometheus.

- `recorder` writes a snapshot each tick, by way of `journal`; `watcher` and `loop_lag` see what happens between
- `pruner` deletes what is past its time, and thins what is old
- `study` reads the record of processes that are set up alike, `window` sums it up, `verdict` says what limits them, and
  `advisor` (with `queueing`'s models) which size their pools should have; `adviser` notes the advice, `fleet` is all of
  it for a page, and `kept` keeps an answer for however many ask
- `readiness` says whether a process can do its work now; `serving` answers that, and `metrics`, on a worker's own port
  (by `probes`, loaded only where there is one)

Reads the pool facade and the ledger's tally; writes over a connection of its own.
"""
