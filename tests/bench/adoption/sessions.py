"""The shop's charge as a job that works on a session of SQLAlchemy, with the application's own engine."""

import os

import asyncpg
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tidepool import App


async def _connect() -> asyncpg.Connection:
    return await asyncpg.connect(os.environ["DATABASE_URL"])


_engine = create_async_engine("postgresql+asyncpg://", async_creator=_connect, pool_size=4, max_overflow=0)
app = App(sessions=async_sessionmaker(_engine))


class Base(DeclarativeBase):
    """The application's models."""


class ChargeRow(Base):
    """A row of the table of charges."""

    __tablename__ = "charges"
    __table_args__ = {"schema": "public"}  # noqa: RUF012  (SQLAlchemy's way)

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int]
    cents: Mapped[int]


@app.job
async def charge_on_session(session: AsyncSession, order_id: int, cents: int) -> int:
    """Charge an order; return the charge's id."""
    statement = insert(ChargeRow).values(order_id=order_id, cents=cents).returning(ChargeRow.id)
    charge_id = await session.scalar(statement)
    await session.commit()
    return charge_id or 0


def __getattr__(name: str) -> type:
    """Make the settings of a worker when arq asks for them."""
    if name != "WorkerSettings":
        raise AttributeError(name)
    return app.worker_settings()
