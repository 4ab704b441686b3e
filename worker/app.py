"""The service as an application of `tidepool`: `tidepool --app worker.app:app …` is `python -m worker …`."""

from settings import Settings
from tidepool import App
from worker.jobs import JOBS

app = App(job_types=JOBS, settings=Settings)
