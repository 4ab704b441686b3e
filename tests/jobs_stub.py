"""The jobs room by its contract, for the page's tests, until the real one is there."""

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter

from producer.front.problems import Problem
from producer.front.services import Using
from producer.submission import Submission
from worker.db.repositories import Repositories

router = APIRouter()


@router.get("/jobs")
async def list_jobs(services: Using, status: str = "", function: str | None = None, search: str = "") -> Any:
    """List outcomes."""
    async with services.pool.acquire() as connection:
        rows = await Repositories(connection).results.newest(status=status, function=function, limit=25)
    found = [row for row in rows if search in f"{row['job_id']} {row['reason']} {row['error']}"]
    return {"jobs": found, "next": None}


@router.get("/jobs/{job_id:path}")
async def read_job(services: Using, job_id: str) -> Any:
    """Read one."""
    async with services.pool.acquire() as connection:
        rows = await Repositories(connection).results.newest(job_ids=[job_id])
    if not rows:
        raise Problem(HTTPStatus.NOT_FOUND, "no such job")
    return {"id": job_id, "url": f"/jobs/{job_id}", **rows[0]}


@router.post("/jobs/requeue")
async def requeue_all(services: Using, status: str = "failed") -> Any:
    """Requeue all."""
    return await _requeue(services, None, status)


@router.post("/jobs/{job_id:path}/requeue")
async def requeue(services: Using, job_id: str) -> Any:
    """Requeue one."""
    return await _requeue(services, [job_id], None)


async def _requeue(services: Any, job_ids: list[str] | None, status: str | None) -> Any:
    async with services.pool.transaction() as connection:
        results = Repositories(connection).results
        jobs = await results.mark_requeued(job_ids, status=status, function=None, after_id="", limit=500)
    await services.client.enqueue_many([Submission(*job) for job in jobs], again=True)
    return {"requeued": len(jobs)}
