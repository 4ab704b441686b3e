"""The job types of the service. Each has a file of its own, with its command and its handler.

A command holds the validated fields of one job. A handler runs a batch of jobs in a transaction that is already open,
and returns one verdict (applied, rejected or unresolved) for each job. It makes the repositories of `worker.tables` on
that transaction, and uses neither asyncpg nor Redis nor the settings directly. A new job type is added to `JOBS` here.
"""

from tidepool import JobTypes
from worker.jobs import create_product, create_user, place_order, set_stock, update_user

JOBS = JobTypes([create_user.JOB, create_product.JOB, place_order.JOB, update_user.JOB, set_stock.JOB])
