"""Enqueues the service's jobs: generated workloads, commands files, and the HTTP front.

- `workload`       generated commands: seeded, streaming
- `commands_file`  commands from JSON Lines, with what is wrong with each refused line
- `source`         where a run takes its commands from; a pipe is read in a thread
- `run`            one run: enqueue, follow, report; `fleet` runs workers for its length
- `report`         what a run counts and prints
- `run_command`    the command line of a run
- `http`           the HTTP front; `serve_command` starts it, `demo` gives it workers and load
- `__main__`       `python -m producer`
"""
