"""The job types of the service, one file each: the command, the handler, and one line here.

A handler gets the open transaction and a batch, and returns one verdict for each job. It makes the repositories of
`worker.tables` on the transaction; it never sees asyncpg, Redis or settings.
"""

from tidepool import JobTypes
from worker.jobs import create_product, create_user, place_order, set_stock, update_user

JOBS = JobTypes([create_user.JOB, create_product.JOB, place_order.JOB, update_user.JOB, set_stock.JOB])
