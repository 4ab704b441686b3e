"""The HTTP front: the operators' page, and an API of jobs, pools and health, for any application. It runs no jobs.

`create_app` makes the web application, with your own routers (`Router`); `WebServer.run_app` runs it. Your routes
declare a parameter of type `Using` for the services, accept jobs with `JobRequests`, and raise `Problem` to refuse a
request.

- `app`       makes the web application, to which an application adds its own routers, and its middleware
- `server`    runs it until the process gets a signal
- `guard`     checks who may send a request (`sign_in`), and how often (`callers`)
- `job_requests`  requests that enqueue a job, and their OpenAPI description
- `accepting` enqueues the jobs, in round trips that concurrent requests share; `waiting` waits for outcomes
- `jobs`      routes to list outcomes, and to requeue and abort jobs
- `health`    routes for health and metrics; `fleet` caches the figures of all workers
- `page`      the page, out of `static`: no build step, charts by uPlot 1.6.32 (its licence beside it)
- `feed`      the page's data, once or live; `history` is its larger part
- `services`  what the routers share: one pool and one Redis client of this process, and the job client
- `routing`   the classes of all routers and bodies, row ids in paths, and the URLs of jobs
- `problems`  errors as RFC 9457 problem details
"""

from tidepool.web.app import create_app
from tidepool.web.job_requests import JobRequests
from tidepool.web.problems import PROBLEM_SCHEMA, Problem
from tidepool.web.routing import GREATEST_ID, Body, Router, RowId
from tidepool.web.server import WebServer
from tidepool.web.services import Services, Using

__all__ = [
    "GREATEST_ID",
    "PROBLEM_SCHEMA",
    "Body",
    "JobRequests",
    "Problem",
    "Router",
    "RowId",
    "Services",
    "Using",
    "WebServer",
    "create_app",
]
