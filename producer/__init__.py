"""The producer enqueues the service's jobs: from generated workloads, from commands files, and over HTTP.

- `workload`       generated commands: seeded, streaming
- `commands_file`  commands from JSON Lines, and the reason for each refused line; a pipe is read in a thread
- `run`            enqueues the jobs of one run and waits for their outcomes; `fleet` runs workers meanwhile
- `report`         what a run counts and prints
- `http`           the HTTP front, a web application; `serve_command` starts it, and the demo
- `__main__`       the command line `python -m producer`, and the command that enqueues jobs
"""
