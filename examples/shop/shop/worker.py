"""The shop's background jobs on Tidepool. `arq shop.worker.WorkerSettings` runs them."""

from shop import tasks
from tidepool import adopt

WorkerSettings = adopt(tasks.WorkerSettings)
