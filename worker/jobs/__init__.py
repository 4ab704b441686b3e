"""The job types of the service. Each has a file of its own, with its command and its function.

A command holds the validated fields of one job. The function runs a batch of jobs in a transaction that is already
open, and returns one verdict (applied, rejected or unresolved) for each job. It makes the repositories of
`worker.tables` on that transaction, and uses neither asyncpg nor Redis nor the settings directly. A new job type's
module is imported here.
"""

from worker.jobs import create_product, create_user, place_order, set_stock, update_user
from worker.service import app

__all__ = ["JOBS", "app", "create_product", "create_user", "place_order", "set_stock", "update_user"]

JOBS = app.job_types
