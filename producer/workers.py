"""Runs worker processes of the service while the producer runs (`--workers W`, `--demo`)."""

from settings import Settings
from tidepool import JobClient
from tidepool.cli import Supervisor

_MAX_RESTARTS = 20
_STOP_TIMEOUT_S = 30.0


async def run_workers(count: int, client: JobClient, settings: Settings) -> None:
    """Run *count* workers, and replace those that die, until this call is cancelled; then stop them.

    Each logs to a file in the directory `logs` of DATA_DIR. Raises `CommandError` when a worker cannot start, when the
    21st has died, or when a log file cannot be written.
    """
    workers = Supervisor(
        "worker:app",
        [{"METRICS_PORT": ""}] * count,  # it would be one port for all of them
        bury=client.bury,
        log_dir=settings.data_dir / "logs",
        max_restarts=_MAX_RESTARTS,
        stop_timeout_s=_STOP_TIMEOUT_S,
    )
    await workers.run()
