"""The HTTP front: enqueues commands, waits for their outcomes, reads what the service knows. It runs no jobs.

- `app`        makes the application: its rooms (routers), what stands before them, what it opens and closes
- `server`     runs the application until it is told to stop
- `guard`      who may ask, and how often (`rates`, `sign_in`, `callers`); `heads` answers HEAD
- `commands`   the room that takes commands: `accepting` enqueues (`sharing` lets callers share round trips), `waiting`
               waits for outcomes, `describing` says it in OpenAPI; `shortcut` leads there past FastAPI's routing
- `load_test`  the room that enqueues a burst
- `jobs`       the room of outcomes, requeueing and aborting
- `reading`    the room of users, products and orders
- `health`     the room of probes and figures: `requests` counts what is answered, `fleet` keeps what all workers say
- `page`       the operators' page, out of `static`: no build step, charts by uPlot 1.6.32 (its licence beside it)
- `feed`       the page's picture, once or live; `picture` gathers it, `tallies` and `history` are its larger parts
- `services`   what the rooms share: one pool and one Redis client of this process, and the job client
- `paths`      what the paths of several rooms have in common
- `problems`   errors as RFC 9457 problem details

`python -m producer serve` starts it; `producer.serve_command` is the command line.
"""
