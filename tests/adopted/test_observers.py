"""Sentry's and OpenTelemetry's SDKs observe jobs: one trace a job, and what happens in a job belongs to its trace.

Sentry patches arq for the whole process, so it runs in programs of their own; what it would send is kept in memory.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import arq.worker
import pytest
from arq.connections import ArqRedis
from arq.worker import func
from opentelemetry import context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from programs import run

Make = Callable[..., arq.worker.Worker]
Ctx = dict[Any, Any]
JOBS = 50

_SENTRY = """
import sentry_sdk
from sentry_sdk.transport import Transport

class Memory(Transport):
    kept = []

    def capture_envelope(self, envelope):
        self.kept += [item.payload.json for item in envelope.items if item.type in ("event", "transaction")]

options = dict(dsn="http://key@localhost/1", transport=Memory, traces_sample_rate=1.0)
"""
_ALL = _SENTRY + "\nsentry_sdk.init(**options)\n"
"""With every integration that finds its library, as is the default; importing these takes seconds."""
_ONE = (
    _SENTRY
    + """
from sentry_sdk.integrations.arq import ArqIntegration
sentry_sdk.init(**options, auto_enabling_integrations=False, integrations=[ArqIntegration()])
"""
)
_IMPORT = "\nimport tidepool\n"
_ADOPT = "\nimport tidepool\ntidepool.adopt(Settings)\n"
_SETTINGS = f"""
import asyncio, json
import arq, arq.worker
from arq.connections import ArqRedis

begun = 0
all_begun = asyncio.Event()

async def at_work(ctx):  # all jobs are running when the first one goes on
    global begun
    begun += 1
    if begun == {JOBS}:
        all_begun.set()
    await all_begun.wait()

async def charge(ctx, number):
    import sentry_sdk
    sentry_sdk.set_tag("own", ctx["job_id"])
    sentry_sdk.add_breadcrumb(message=ctx["job_id"], category="own")
    with sentry_sdk.start_span(name=ctx["job_id"]):
        await at_work(ctx)
    if number % 5 == 0:
        raise ValueError(ctx["job_id"])

async def refund(ctx, number):
    import sentry_sdk
    await at_work(ctx)
    sentry_sdk.capture_message(ctx["job_id"])

class Settings:
    functions = [charge, refund]
    handle_signals = False
    burst = True
    poll_delay = 0
    max_jobs = {JOBS}
"""
_MAIN = f"""
async def main():
    Settings.redis_pool = redis = ArqRedis.from_url(URL)
    for number in range({JOBS}):
        await redis.enqueue_job("refund" if number % 2 else "charge", number, _job_id=f"j{{number}}")
    Memory.kept.clear()
    worker = arq.worker.create_worker(Settings)
    await worker.async_run()
    print(worker.jobs_complete, worker.jobs_failed)
    await redis.aclose(close_connection_pool=True)

asyncio.run(main())
for event in Memory.kept:
    values = event.get("exception", {{}}).get("values", [{{}}])
    print(json.dumps([
        event.get("type", "event"), event["transaction"], event["tags"]["arq_task_id"],
        event["contexts"]["trace"]["trace_id"], event["tags"].get("own"),
        values[-1].get("value") or event.get("message") or "",
        [crumb["message"] for crumb in event.get("breadcrumbs", {{}}).get("values", []) if crumb["category"] == "own"],
        [span["description"] for span in event.get("spans", ()) if span["description"].startswith("j")],
    ], separators=(",", ":")))
"""


@pytest.mark.parametrize(
    "order",
    [[_ONE], [_ALL, _ADOPT], [_ADOPT, _ONE], [_IMPORT, _ONE, _ADOPT]],
    ids=["arq's", "before", "after", "between import and adoption"],
)
def test_sentry_sees_each_job_as_one_transaction_with_its_own_errors(redis_url: str, order: list[str]) -> None:
    """Fifty jobs at a time: names, tags, breadcrumbs, spans and errors of each are its own."""
    complete, failed, *lines = run(_SETTINGS, *order, f"URL = {redis_url!r}\n", _MAIN)
    assert ("45", "5") == (complete, failed)
    events = [json.loads(line) for line in lines]
    transactions = {event[2]: event for event in events if event[0] == "transaction"}
    assert {f"j{number}" for number in range(JOBS)} == {*transactions}
    assert JOBS == len([event for event in events if event[0] == "transaction"])
    assert JOBS == len({event[3] for event in transactions.values()})
    for job_id, (_, name, _, _, own, _, _, spans) in transactions.items():
        charges = int(job_id[1:]) % 2 == 0
        assert ("charge" if charges else "refund") == name
        assert ((job_id, [job_id]) if charges else (None, [])) == (own, spans)
    errors = [event for event in events if event[0] == "event"]
    assert sorted([f"j{number}" for number in range(JOBS) if number % 2 or number % 5 == 0]) == sorted(
        event[2] for event in errors
    )
    for _, name, job_id, trace_id, own, text, crumbs, _ in errors:
        assert (job_id, transactions[job_id][1], transactions[job_id][3]) == (text, name, trace_id)
        assert ((job_id, [job_id]) if name == "charge" else (None, [])) == (own, crumbs)


@pytest.fixture
def spans() -> InMemorySpanExporter:
    """Give an exporter that keeps finished spans in memory."""
    return InMemorySpanExporter()


@pytest.fixture
def tracer(spans: InMemorySpanExporter) -> trace.Tracer:
    """Give a tracer of the application's own."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return provider.get_tracer("application")


def _job(tracer: trace.Tracer) -> Any:
    """Return a function that opens a span when all jobs are running, and another one in it."""
    begun: list[str] = []
    all_begun = asyncio.Event()

    async def job(ctx: Ctx) -> None:
        begun.append(ctx["job_id"])
        if len(begun) == JOBS:
            all_begun.set()
        await all_begun.wait()
        with tracer.start_as_current_span(f"outer {ctx['job_id']}"):
            await asyncio.sleep(0)
            with tracer.start_as_current_span(f"inner {ctx['job_id']}"):
                await asyncio.sleep(0)

    return func(job, name="job")


def _assert_each_job_has_its_trace(spans: InMemorySpanExporter) -> None:
    finished = spans.get_finished_spans()
    assert 3 * JOBS == len(finished)
    named = {span.name: span for span in finished}
    for number in range(JOBS):
        run, outer, inner = (named[f"{name} j{number}"] for name in ("run", "outer", "inner"))
        assert run.parent is None
        assert outer.parent is not None
        assert inner.parent is not None
        assert (run.context.span_id, outer.context.span_id) == (outer.parent.span_id, inner.parent.span_id)
        assert run.context.trace_id == inner.context.trace_id


async def test_a_span_around_run_job_is_the_parent_of_what_the_job_opens(
    make: Make, kind: type[arq.worker.Worker], redis: ArqRedis, tracer: trace.Tracer, spans: InMemorySpanExporter
) -> None:
    """A subclass of the Worker opens it."""

    class Traced(kind):  # type: ignore[valid-type,misc]
        async def run_job(self, job_id: str, score: int) -> None:
            with tracer.start_as_current_span(f"run {job_id}"):
                await super().run_job(job_id, score)

    for number in range(JOBS):
        await redis.enqueue_job("job", _job_id=f"j{number}")
    worker = make(_job(tracer), max_jobs=JOBS, of=Traced)
    assert JOBS == await worker.run_check()
    _assert_each_job_has_its_trace(spans)


async def test_a_span_from_start_hook_to_end_hook_is_the_parent_of_what_the_job_opens(
    make: Make, redis: ArqRedis, tracer: trace.Tracer, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    """It is made current by one hook and ended by the other, which finds it in ctx."""

    async def on_job_start(ctx: Ctx) -> None:
        ctx["span"] = tracer.start_span(f"run {ctx['job_id']}")
        ctx["token"] = context.attach(trace.set_span_in_context(ctx["span"]))

    async def on_job_end(ctx: Ctx) -> None:
        context.detach(ctx["token"])
        ctx["span"].end()

    for number in range(JOBS):
        await redis.enqueue_job("job", _job_id=f"j{number}")
    worker = make(_job(tracer), on_job_start=on_job_start, on_job_end=on_job_end, max_jobs=JOBS)
    assert JOBS == await worker.run_check()
    _assert_each_job_has_its_trace(spans)
    assert "detach" not in caplog.text
