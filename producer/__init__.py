"""The producer enqueues the service's jobs: from generated workloads, from commands files, and over HTTP.

- `workload`       generates commands (jobs to enqueue), determined by a seed
- `commands_file`  reads commands from JSON Lines, and reports the reason for each refused line
- `run`            enqueues the jobs of one run and waits for their outcomes; `workers` runs workers meanwhile
- `report`         what a run counts and prints
- `http`           the HTTP front, a web application; `serve_command` starts it, and the demo
- `__main__`       the command line `python -m producer`, and the command that enqueues jobs
"""
