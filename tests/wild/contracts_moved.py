"""The agency's cron jobs on Tidepool: `arq tests.wild.contracts_moved.WorkerSettings` runs them."""

from tests.wild import contracts
from tidepool import adopt

WorkerSettings = adopt(contracts.WorkerSettings)
