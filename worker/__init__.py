"""The service, an application of `tidepool`: jobs that create users and products, and place orders.

- `service`  the application, `app`: its settings, and its tables' migrations
- `jobs`     the job types: commands (arguments) and functions, one file each
- `tables`   users, products and orders: a repository each, and their SQL
- `reasons`  why a job is rejected

Start a worker with `arq worker.WorkerSettings`; operators' commands are under `python -m worker`.
"""

from typing import TYPE_CHECKING

from tidepool import app_on_demand

if TYPE_CHECKING:
    from worker.jobs import app

__all__ = ["app"]

__getattr__ = app_on_demand(__name__, "worker.jobs:app")
