"""Defines `app`, the service as an application of `tidepool`: its job types, settings and migrations.

`python -m worker …` is short for `tidepool --app worker:app …`.
"""

from settings import Settings
from tidepool import App, Migrations
from worker.jobs import JOBS

app = App(job_types=JOBS, settings=Settings, migrations=Migrations(service="worker.tables"))
