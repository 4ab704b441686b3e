"""Completes the jobs of functions: commits a job's effects and its ledger row in one short transaction at its end.

A function runs outside of any transaction of the library, for as long as it needs. At its end it enters the block of
`complete(ctx)`, which makes the job's effects exactly-once:

- Before the function runs, the engine asks the ledger. A job that has an outcome gets it as its result.
- If two workers run the job at the same time, the second one finds the row of the first when it leaves its block. Its
  effects are rolled back, and `Settled` ends its function.
- After the commit the job has its outcome: neither an error nor a lost worker makes its function run again.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType
from typing import Any

from tidepool.jobs.handlers import lend_transaction
from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Settled
from tidepool.ledger.ledger import Ledger
from tidepool.pool.connection import Connection
from tidepool.pool.faults import Unavailable

LEDGER = "tidepool_ledger"
"""The key of the worker's `Ledger` in arq's ctx."""


def complete(ctx: Mapping[Any, Any]) -> "Completion":
    """Return the block in which an `@app.function` completes its job: the effects in it are committed exactly once.

        async with tidepool.complete(ctx) as transaction:
            await transaction.execute("UPDATE photos SET tags = $2 WHERE id = $1", photo_id, tags)

    *ctx* is the first argument of the function. The block gets a `Transaction` of the worker's pool, or a session of
    `App(sessions=…)`. When it is left, its effects and the job's ledger row are committed together. It can be used once
    in a job. Raises `RuntimeError` outside of a job of an `@app.function`.
    """
    job, ledger = ctx.get("tidepool"), ctx.get(LEDGER)
    if not isinstance(job, Job) or not isinstance(ledger, Ledger) or job.is_typed:
        raise RuntimeError("complete() works in a job of an @app.function only, with its ctx, run by the App's worker")
    return Completion(job, ledger)


class Completion:
    """The block in which a function completes its job; see `complete`."""

    result: object = None
    """The job's result in the ledger, a value of JSON; set it in the block, or before. It is the result of a job whose
    function could not return one: because its worker was lost after the commit, or another run was faster."""

    _connection: Connection
    _transaction: AbstractAsyncContextManager[Connection] | None = None
    _lent: AbstractAsyncContextManager[object]
    _begun_ns: int

    def __init__(self, job: Job[Any], ledger: Ledger) -> None:
        self._job = job
        self._ledger = ledger
        self._source = ledger.source_of(job)

    async def __aenter__(self) -> Any:
        """Begin the transaction, and return it. Waits for PostgreSQL, for as long as the function may run.

        Raises `RuntimeError` if `complete` was used in the job before, or its function has ended.
        """
        job = self._job
        self._require_running()
        if job.is_completing or job.settled is not None:
            raise RuntimeError("complete() was used in this job before: a job is completed once")
        job.is_completing, job.left_ns = True, time.perf_counter_ns()
        try:
            self._connection = await self._ledger.reach(self._begin)
            self._begun_ns = time.perf_counter_ns()
            lend = self._source.lend if self._source else lend_transaction
            self._lent = lend(self._connection, job)
            return await self._lent.__aenter__()
        except BaseException as error:
            await self._roll_back(error)
            raise

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Write the job's row and commit, or roll back if the block has raised an error.

        If the job has an outcome already, an error may have come from that: `Settled` is raised then.
        """
        try:
            await self._end_work(error)
        except BaseException as failure:
            await self._roll_back(failure)
            if isinstance(failure, Exception) and await self._has_outcome():
                raise Settled from None
            raise
        await self._commit()

    async def _begin(self) -> Connection:
        transaction = self._ledger.transaction(self._source)
        connection = await transaction.__aenter__()
        self._transaction = transaction
        return connection

    async def _end_work(self, error: BaseException | None) -> None:
        """Take back what the block worked on, and write the job's row. Raises *error*, which is that of the block."""
        if error is not None:
            with suppress(Exception):  # what follows from it
                await self._lent.__aexit__(type(error), error, error.__traceback__)
            raise error
        await self._lent.__aexit__(None, None, None)
        self._require_running()
        await self._ledger.write_applied(self._job, self.result, self._connection, self._begun_ns)

    async def _roll_back(self, failure: BaseException) -> None:
        try:
            if self._transaction is not None:
                with suppress(Exception):  # the server rolls back by itself if it cannot be reached
                    await self._transaction.__aexit__(type(failure), failure, failure.__traceback__)
        finally:
            self._job.is_completing = False

    async def _commit(self) -> None:
        """Commit. A cancellation does not interrupt it, or it would be unknown how the job ended; it is raised then.

        If the answer is lost, the ledger says whether the transaction was committed.
        """
        assert self._transaction is not None
        job, cancellation = self._job, None
        committing = asyncio.ensure_future(self._transaction.__aexit__(None, None, None))
        while not committing.done():
            try:
                await asyncio.wait([committing])
            except asyncio.CancelledError as error:
                cancellation = error
        failure = committing.exception()
        if failure is None:
            self._ledger.applied(job, self.result)
        if cancellation is not None:
            raise cancellation
        if failure is not None:
            if not await self._has_outcome():
                job.is_completing = False
                raise failure
            if not isinstance(failure, Unavailable):
                raise Settled

    async def _has_outcome(self) -> bool:
        self._job.settled = await self._ledger.outcome(self._job)
        return self._job.settled is not None

    def _require_running(self) -> None:
        if not self._job.is_running:
            raise RuntimeError("the job's function has ended, and cannot complete it any more")
