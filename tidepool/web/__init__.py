"""The operators' page, and the API of jobs, pools and health, for any application. It runs no jobs.

- `app`       makes the web application, to which an application adds its own routers
- `server`    runs it until it is told to stop
- `guard`     who may ask, and how often (`rates`, `sign_in`, `callers`); `heads` answers HEAD
- `accepting` enqueues what a request asks for (`sharing` lets callers share round trips); `waiting` waits for outcomes
- `shortcut`  answers frequent requests without FastAPI's routing
- `jobs`      outcomes, requeueing and aborting
- `health`    probes and figures: `requests` counts what is answered, `fleet` caches what all workers report
- `page`      the page, out of `static`: no build step, charts by uPlot 1.6.32 (its licence beside it)
- `feed`      the page's data, once or live; `picture` gathers it, `tallies` and `history` are its larger parts
- `services`  what the routers share: one pool and one Redis client of this process, and the job client
- `paths`     what the paths of several routers have in common
- `problems`  errors as RFC 9457 problem details
"""
