"""The kinds of jobs, one file each: the command, the handler, and one line here.

A handler gets a batch and the repositories of an open transaction and answers with one verdict a job.
It knows `tidepool.jobs.outcomes` and the interfaces in `ports`, never asyncpg, Redis or settings.
"""

from tidepool.jobs.job import JobTypes
from worker.jobs import create_product, create_user, place_order, set_stock, update_user

JOBS = JobTypes([create_user.JOB, create_product.JOB, place_order.JOB, update_user.JOB, set_stock.JOB])
