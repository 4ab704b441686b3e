"""The HTTP front: enqueues commands, waits for their outcomes, reads what the service knows. It runs no jobs.

- `app`       makes the application: its rooms (routers), problem details, what it opens and closes
- `services`  what the rooms share: one pool and one Redis client of this process, and the job client
- `problems`  errors as RFC 9457 problem details
- `page`      the operators' page, out of `static`: no build step, charts by uPlot 1.6.32 (its licence beside it)
- `feed`      the page's picture, once or live; `picture` gathers it, `tallies` and `history` are its larger parts
- `server`    runs the application until it is told to stop

`python -m producer serve` starts it; `producer.serve_command` is the command line.
"""
