"""Runs a worker as the only work of a process, with settings that the `arq` command would take."""

import logging.config
import signal
from typing import Any

from arq.logs import default_log_config
from arq.worker import create_worker

from tidepool.engine.worker import Worker


def run_worker(settings: Any, *, max_jobs_run: int | None = None) -> None:
    """Run a worker until a signal stops it, or until it has run *max_jobs_run* jobs.

    *settings* are arq's: a class, a dict or an object. Their `burst` and `handle_signals` are ignored. SIGQUIT stops
    the worker at once: running jobs are cancelled and put back into the queue. Raises `SystemExit` with status 2 if the
    worker cannot start.
    """
    logging.config.dictConfig(default_log_config(verbose=False))
    worker = create_worker(settings, burst=False, handle_signals=True)
    assert isinstance(worker, Worker), "tidepool's Worker is not installed"
    worker.tidepool_max_jobs_run = max_jobs_run
    worker.loop.add_signal_handler(signal.SIGQUIT, worker.handle_sig, signal.SIGQUIT)
    worker.run()
