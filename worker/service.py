"""The service as an application of `tidepool`: `tidepool --app worker:app …` is `python -m worker …`."""

from settings import Settings
from tidepool import App, Migrations
from worker.jobs import JOBS

app = App(job_types=JOBS, settings=Settings, migrations=Migrations(service="worker.tables"))
