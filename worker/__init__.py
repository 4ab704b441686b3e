"""The service: create-user, create-product and place-order jobs, as an application of the library `tidepool`.

- `app`      the application: its job types and its settings
- `jobs`     the commands and their handlers, one file each
- `tables`   users, products and orders: a repository each, and their SQL
- `reasons`  why a job is rejected

Start a worker with `arq worker.WorkerSettings`; operators' commands are under `python -m worker`.
"""

from tidepool import worker_settings_on_demand

__getattr__ = worker_settings_on_demand(__name__, "worker.app:app")
