"""Everything that knows Redis.

- `wire`        the format of jobs and results, which is arq's
- `connection`  Redis's client, and how it is waited for; `faults` says what an error of Redis means
- `submission`  a job to enqueue
- `leases`      claims and finishes many jobs in a round trip; the scripts are in `lua`
- `holding`     what a process holds, and under which owner's name; `renewal` keeps its lease, `finisher` acknowledges
- `wakeup`      ends an idle worker's sleep
"""
