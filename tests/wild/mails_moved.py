"""Runs a worker of the mails on Tidepool: `python -m tests.wild.mails_moved`."""

from tests.wild import mails
from tests.wild.mails_worker import work
from tidepool import adopt

adopt(mails.worker_settings)

if __name__ == "__main__":
    work()
