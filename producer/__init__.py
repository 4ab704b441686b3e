"""What stands outside the worker and talks to the queue.

- `client`         JobClient: enqueue one job or many, read outcomes; the library behind the commands
- `submission`     what is handed to the queue
- `workload`       generated commands: seeded, streaming
- `commands_file`  commands from JSON Lines, with what is wrong with each refused line
- `source`         where a run takes its commands from; a pipe is read in a thread, and holds nothing up
- `run`            one run: enqueue, follow, report; `fleet` runs workers for its length
- `requeue`        takes outcomes back and enqueues their jobs again
- `report`         what a run counts and prints
- `run_command`, `ledger_commands`  the command lines of a run, and of `results` and `requeue`
- `front`          the HTTP front and the operators' page; `serve_command` starts it, `demo` gives it something to show
- `__main__`       `python -m producer`

It uses the worker's commands, wire format, servers and the reading side of its repositories. The
worker never imports it.
"""
