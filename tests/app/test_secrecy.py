"""What nobody may find in a log: passwords, what jobs hold, lines that a sender forged. And that bytes stay bytes."""

import asyncio
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.jobs import DeserializationError, Job
from commands import Service

PASSWORD, PRIVATE = "hunter2-marker", "private-marker.example"
FORGED = "id\n2026-01-01T00:00:00Z [info     ] forged.line\x1b[2J"


class Bomb:
    """What a pickle of this does when it is read."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self._canary,)


def user(name: str, **fields: Any) -> dict[str, Any]:
    """Return the fields of a user, every one of them private."""
    return {"username": name, "email": f"{name}@{PRIVATE}", "full_name": f"{name} of {PRIVATE}", **fields}


async def test_logs_have_neither_passwords_nor_what_jobs_hold(
    service: Service, redis: ArqRedis, connection: Any, rows: Any
) -> None:
    """At DEBUG, for jobs that go well, for every way to be refused, and for errors whose DETAIL repeats a row."""
    await connection.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'refused' USING DETAIL = NEW.email; END $$;"
        "CREATE TRIGGER refuse BEFORE INSERT ON users"
        " FOR EACH ROW WHEN (NEW.username = 'cursed') EXECUTE FUNCTION refuse()"
    )
    await redis.enqueue_job("create_user", **user("ada"), _job_id=FORGED)
    await redis.enqueue_job("create_user", **user("ada"), _job_id="twin")
    await redis.enqueue_job("create_user", **user("cursed"), _job_id="cursed")
    await redis.enqueue_job("create_user", **user("nul", full_name=f"a\x00{PRIVATE}"), _job_id="nul")
    await redis.enqueue_job("create_user", **user("more", surname=PRIVATE), _job_id="more")
    await redis.enqueue_job("create_user", **user("x" * 60 + PRIVATE), _job_id="long")
    await redis.enqueue_job("place_order", username=PRIVATE, sku=PRIVATE, quantity=PRIVATE, _job_id="order")
    await redis.enqueue_job("no_such_function", PRIVATE, _job_id="unknown")
    await redis.enqueue_job("update_user", username="ada", email=f"eve@{PRIVATE}", _job_id="change", _defer_by=0.3)
    url = service.environment["DATABASE_URL"].replace("postgres@", f"postgres:{PASSWORD}@")

    ended = await asyncio.to_thread(
        service.run, "arq", "worker.WorkerSettings", "--burst", DATABASE_URL=url, LOG_LEVEL="DEBUG", MAX_TRIES="1"
    )

    outcomes = await rows("SELECT status, error FROM job_results")
    assert (0, 9) == (ended.status, len(outcomes)), ended.stderr
    assert {"applied", "rejected", "failed"} == {row["status"] for row in outcomes}
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert any("Traceback" in line.get("exception", "") for line in lines)
    assert any("create_user" in line["event"] for line in lines), "at DEBUG each job is logged"
    for words in (ended.stderr, ended.stdout, str(outcomes)):
        assert not [marker for marker in (PASSWORD, PRIVATE) if marker in words]
    assert not any(line["event"].startswith("forged") for line in lines)


async def test_a_pickle_runs_nothing(service: Service, redis: ArqRedis, rows: Any, tmp_path: Path) -> None:
    """Neither as a job in the worker nor as a result in a client."""
    canary = tmp_path / "canary"
    bomb = pickle.dumps({"f": "create_user", "a": (), "k": {}, "t": None, "et": 1, "r": Bomb(canary)})
    await redis.set("arq:job:bomb", bomb)
    await redis.set("arq:result:bombed", bomb)
    await redis.zadd("arq:queue", {"bomb": 1})

    ended = await asyncio.to_thread(service.run, "arq", "worker.WorkerSettings", "--burst")
    with pytest.raises(DeserializationError):
        await Job("bombed", redis, _deserializer=redis.job_deserializer).result(1)

    assert 0 == ended.status
    assert [{"status": "rejected", "reason": "invalid"}] == await rows("SELECT status, reason FROM job_results")
    assert not canary.exists()
    pickle.loads(bomb)
    assert canary.exists(), "the bomb was none"
