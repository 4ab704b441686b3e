"""Defines `app`, the service as an application of `tidepool`: its settings and migrations. `worker.jobs` adds the jobs.

`python -m worker …` is short for `tidepool --app worker:app …`.
"""

from settings import Settings
from tidepool import App, Migrations

app = App(settings=Settings, migrations=Migrations(service="worker.tables"), wraps_results=True)
