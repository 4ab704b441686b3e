"""The decoding path without servers: from a claimed job's bytes, through the engine, to what the ledger is given.

`checked` runs it on one payload and asserts what holds for all of them. The property tests call it with what
hypothesis makes up, and the fuzzer (`tests/fuzz`) with what libFuzzer does.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

from tidepool.engine.attempt import Attempts
from tidepool.engine.options import EngineOptions, TypedJobs
from tidepool.engine.worker import Worker
from tidepool.jobs.arguments import Command
from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Applied, CommonReason, Failed, Outcome, Rejected
from tidepool.ledger.ledger import _entry
from tidepool.queue import wire
from tidepool.queue.finisher import Done, Ending
from tidepool.storage.results import encode_rows
from worker.jobs import JOBS

ENVELOPE: dict[str, Any] = {"f": "create_user", "a": [], "k": {}, "t": None, "et": 1_764_000_000_000}


class Decoder:
    """An engine whose jobs go no further than to here: a command is applied, what is decided already stays so."""

    def __init__(self) -> None:
        self._typed = TypedJobs(JOBS, 5, self)
        with asyncio.Runner() as runner:  # arq's constructor wants a loop; none is used later
            self._attempts = runner.run(self._make())

    async def _make(self) -> Attempts:
        return Attempts(
            Worker(
                functions=self._typed.arq_functions(),
                handle_signals=False,
                job_serializer=wire.serialize,
                job_deserializer=wire.receive,
                tidepool=EngineOptions(typed=self._typed, leave_s=0),
            )
        )

    async def submit(self, job: Job) -> Outcome:
        """Settle a job, as the batcher would."""
        return job.decided or Applied({})

    def decode(self, payload: bytes) -> tuple[Job, Ending]:
        """Return what the ledger would be given, and what the engine would make of its answer."""
        job: Job = Job("job", "me", payload)
        try:
            self._attempts.make(job).send(None)
        except StopIteration as end:
            return job, end.value
        raise AssertionError("the decoding waits for something")


_DECODER = Decoder()


def checked(payload: bytes) -> Command | Rejected:
    """Decode *payload*: it is a command, or rejected with a reason; both can be stored, and returned to a client."""
    job, ending = _DECODER.decode(payload)
    assert not isinstance(job.decided, Failed)
    if job.decided:
        assert CommonReason.INVALID == job.decided.reason
        assert job.decided.detail
    _assert_storable(job)
    assert isinstance(ending, Done)
    result = wire.deserialize(ending.result)["r"]
    assert ("rejected" if job.decided else "applied") == result["status"]
    return job.decided or job.command


def _assert_storable(job: Job) -> None:
    """Assert that PostgreSQL would take the ledger's row and the command's fields."""
    entry = _entry(job, job.decided or Applied({}), time.perf_counter_ns())
    fields = [] if job.decided else list(job.command.model_dump().values())
    assert encode_rows([entry, fields])
    assert len(job.function) <= 100
    assert len(entry.error or "") <= 1000
    texts = [job.function, *_texts(fields), *_texts(list(entry)), *_texts(json.loads(entry.args or "null"))]
    assert not [text for text in texts if "\x00" in text]


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in a JSON value, the names of fields included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
