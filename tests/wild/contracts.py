"""An agency whose contracts are moved along by three cron jobs: `arq tests.wild.contracts.WorkerSettings` runs them.

The public application LufeDigitalWave/freela-food works like this; the code is our own. Each run is one session of
SQLAlchemy and one `begin()`: the sessions come from a factory at module level, and arq's context is not used for them.
A run that is repeated finds nothing left to do, so that it may seem idempotent. Two runs side by side show that it is
not: both count the same contract.

Its crons run every few seconds in place of minutes, and its `job_timeout` is short, since stock arq repeats the job of
a killed worker only after `job_timeout` and ten seconds.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from arq import cron
from arq.connections import RedisSettings
from sqlalchemy import BigInteger, DateTime, ForeignKey, MetaData, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEDULED, RUNNING, COMPLETED = "scheduled", "running", "completed"
JOB_TIMEOUT_S = 15
EVERY_S = 2
"""Seconds between two runs of each cron job."""
TIMED_OUT = "contracts:timed_out"
"""Redis key of a counter: runs that were cancelled after `JOB_TIMEOUT_S`."""


class Base(DeclarativeBase):
    """The agency's tables. Times have a time zone."""

    metadata = MetaData()
    type_annotation_map = {datetime: DateTime(timezone=True), int: BigInteger}  # noqa: RUF012  (SQLAlchemy's)


class Freelancer(Base):
    """Who works, with a counter of the contracts that are completed."""

    __tablename__ = "freelancers"
    id: Mapped[int] = mapped_column(primary_key=True)
    completed_contracts: Mapped[int] = mapped_column(default=0)


class Posting(Base):
    """A job offer; it is closed when all of its contracts are completed."""

    __tablename__ = "postings"
    id: Mapped[int] = mapped_column(primary_key=True)
    is_open: Mapped[bool] = mapped_column(default=True, index=True)


class Contract(Base):
    """A freelancer's work for a posting. Its file is deleted when it is completed."""

    __tablename__ = "contracts"
    id: Mapped[int] = mapped_column(primary_key=True)
    posting_id: Mapped[int] = mapped_column(ForeignKey(Posting.id), index=True)
    freelancer_id: Mapped[int] = mapped_column(ForeignKey(Freelancer.id))
    starts_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    status: Mapped[str] = mapped_column(default=SCHEDULED, index=True)
    completed_at: Mapped[datetime | None]
    file: Mapped[str | None]


class CronRun(Base):
    """A committed run of a cron job: its id, which names the tick, the worker process, and when it ran."""

    __tablename__ = "cron_runs"
    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str]
    worker: Mapped[int]
    began_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class Notification(Base):
    """A message to somebody, about a contract or a posting, and the run that wrote it."""

    __tablename__ = "notifications"
    id: Mapped[int] = mapped_column(primary_key=True)
    subject: Mapped[str]
    run_id: Mapped[int] = mapped_column(ForeignKey(CronRun.id))


def _engine_of(url: str) -> AsyncEngine:
    return create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))


sessions = async_sessionmaker(_engine_of(os.environ.get("DATABASE_URL", "postgresql://localhost/contracts")))


async def create_tables(url: str) -> None:
    """Create the tables in an empty database."""
    engine = _engine_of(url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()


@asynccontextmanager
async def _run(ctx: dict[Any, Any]) -> AsyncIterator[tuple[AsyncSession, CronRun]]:
    """Open the one session and transaction of a run, with its row in `cron_runs`; count the run if it times out."""
    began_at = datetime.now(UTC)
    try:
        async with sessions() as session, session.begin():
            run = CronRun(job_id=ctx["job_id"], worker=os.getpid(), began_at=began_at)
            session.add(run)
            await session.flush()
            yield session, run
            run.ended_at = datetime.now(UTC)
    except asyncio.CancelledError:
        if datetime.now(UTC) - began_at > timedelta(seconds=JOB_TIMEOUT_S - 1):  # the timeout's clock began earlier
            await ctx["redis"].incr(TIMED_OUT)
        raise


async def advance_contracts(ctx: dict[Any, Any]) -> None:
    """Start the contracts that are due, and complete those that have ended; write their notifications."""
    async with _run(ctx) as (session, run):
        await _start(session, run)
        await _complete(session, run)


async def _start(session: AsyncSession, run: CronRun) -> None:
    due = select(Contract).where(Contract.status == SCHEDULED, Contract.starts_at <= run.began_at)
    for contract in await session.scalars(due):
        contract.status = RUNNING
        session.add(Notification(subject=f"contract {contract.id} has started", run_id=run.id))
        await session.flush()


async def _complete(session: AsyncSession, run: CronRun) -> None:
    due = select(Contract).where(Contract.status == RUNNING, Contract.ends_at <= run.began_at)
    for contract in await session.scalars(due):
        contract.status = COMPLETED
        contract.completed_at = datetime.now(UTC)
        counted = {Freelancer.completed_contracts: Freelancer.completed_contracts + 1}
        await session.execute(update(Freelancer).where(Freelancer.id == contract.freelancer_id).values(counted))
        session.add(Notification(subject=f"contract {contract.id} is completed", run_id=run.id))
        await session.flush()


async def close_postings(ctx: dict[Any, Any]) -> None:
    """Close the postings whose contracts are all completed, and notify their owners."""
    async with _run(ctx) as (session, run):
        unfinished = select(Contract.posting_id).where(Contract.status != COMPLETED)
        begun = select(Contract.posting_id)
        done = select(Posting).where(Posting.is_open, Posting.id.in_(begun), Posting.id.not_in(unfinished))
        for posting in await session.scalars(done):
            posting.is_open = False
            session.add(Notification(subject=f"posting {posting.id} is closed", run_id=run.id))
            await session.flush()


async def delete_files(ctx: dict[Any, Any]) -> None:
    """Delete the files of completed contracts. A file that is not there any more is no error."""
    async with _run(ctx) as (session, _):
        completed = select(Contract).where(Contract.status == COMPLETED, Contract.file.is_not(None))
        for contract in await session.scalars(completed):
            await asyncio.to_thread(Path(str(contract.file)).unlink, missing_ok=True)
            contract.file = None


class WorkerSettings:
    """What `arq` runs."""

    cron_jobs = (
        cron(advance_contracts, second=set(range(0, 60, EVERY_S))),
        cron(close_postings, second=set(range(0, 60, EVERY_S))),
        cron(delete_files, second=set(range(1, 60, EVERY_S))),
    )
    job_timeout = JOB_TIMEOUT_S
    redis_settings = RedisSettings.from_dsn(os.environ.get("REDIS_URL", "redis://localhost"))
