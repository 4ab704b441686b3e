"""The decoding path without servers: from a claimed job's bytes, through the engine, to what the ledger is given.

`checked` runs it on one payload and asserts what holds for all of them. The property tests call it with what
hypothesis makes up, and the fuzzer (`tests/fuzz`) with what libFuzzer does.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any, cast

from tidepool.engine.attempt import perform
from tidepool.engine.intake import Intake, arq_functions
from tidepool.engine.worker import Worker
from tidepool.jobs.command import Command
from tidepool.jobs.outcomes import Applied, CommonReason, Outcome, Rejected
from tidepool.ledger.delivery import Delivery
from tidepool.ledger.ledger import _entry
from tidepool.queue import wire
from tidepool.queue.leases import Claimed, Finish
from tidepool.storage import rows
from worker.jobs import JOBS

ENVELOPE: dict[str, Any] = {"f": "create_user", "a": [], "k": {}, "t": None, "et": 1_764_000_000_000}


class Decoder:
    """An engine whose jobs go no further than to here: a command is applied, what is decided already stays so."""

    def __init__(self) -> None:
        self._delivery: Delivery | None = None
        with asyncio.Runner() as runner:  # arq's constructor wants a loop; none is used later
            self._worker = runner.run(self._make())

    async def _make(self) -> Worker:
        return Worker(
            functions=arq_functions(JOBS),
            handle_signals=False,
            job_serializer=wire.serialize,
            job_deserializer=wire.receive,
            ctx={"intake": Intake(JOBS, self._submit, max_tries=5)},
        )

    async def _submit(self, delivery: Delivery) -> Outcome:
        self._delivery = delivery
        return Applied({}) if isinstance(delivery.command, Command) else delivery.command

    def decode(self, payload: bytes) -> tuple[Delivery, Finish]:
        """Return what the ledger would be given, and what the engine would make of its answer."""
        attempt = perform(self._worker, Claimed("job", 0, payload, 0, 0, "me"), cast("Any", None))
        try:
            attempt.send(None)
        except StopIteration as end:
            assert self._delivery is not None
            return self._delivery, end.value
        raise AssertionError("the decoding waits for something")


_DECODER = Decoder()


def checked(payload: bytes) -> Command | Rejected:
    """Decode *payload*: it is a command, or rejected with a reason; both can be stored, and told to a client."""
    delivery, finish = _DECODER.decode(payload)
    assert isinstance(delivery.command, Command | Rejected)
    if isinstance(delivery.command, Rejected):
        assert CommonReason.INVALID == delivery.command.reason
        assert delivery.command.detail
    _assert_storable(delivery)
    assert "done" == finish.how
    told = wire.deserialize(finish.value)["r"]
    assert ("applied" if isinstance(delivery.command, Command) else "rejected") == told["status"]
    return delivery.command


def _assert_storable(delivery: Delivery) -> None:
    """Assert that PostgreSQL would take the ledger's row and the command's fields."""
    outcome = delivery.command if isinstance(delivery.command, Rejected) else Applied({})
    entry = _entry(delivery, outcome, time.perf_counter_ns())
    fields = list(delivery.command.model_dump().values()) if isinstance(delivery.command, Command) else []
    assert rows.encode([entry, fields])
    assert len(delivery.function) <= 100
    assert len(entry.error or "") <= 1000
    texts = [delivery.function, *_texts(fields), *_texts(list(entry)), *_texts(json.loads(entry.args or "null"))]
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
