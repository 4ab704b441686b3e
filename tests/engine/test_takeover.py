"""Whoever asks arq for a worker gets ours, in programs of their own: what they do to arq lasts until they end."""

import pytest
from programs import ended, run

_BEGIN = """
import asyncio, dataclasses
import arq, arq.worker
from arq import Worker as Early
from arq.worker import Worker as FromModule

async def job(ctx): ...

class Settings:
    functions = [job]
    queue_name = "theirs"
    handle_signals = False
"""
_ADOPT = """
import tidepool
from tidepool.engine.worker import Worker as Ours
"""


def test_every_way_to_a_worker_leads_to_ours() -> None:
    """Whatever was imported first."""
    program = """
    tidepool.adopt(Settings)
    from arq import Worker as Late
    from arq.worker import create_worker, get_kwargs
    options = {"functions": [job], "handle_signals": False}
    for one in (
        create_worker(Settings), create_worker({**options}), arq.worker.Worker(**vars_of(Settings)),
        Early(**options), FromModule(**options), Late(**options), Early([job], handle_signals=False),
    ):
        assert type(one) is Ours, type(one)
        assert isinstance(one, Early)
    assert create_worker(Settings).queue_name == "theirs"
    """
    vars_of = "\ndef vars_of(kind): return {k: v for k, v in vars(kind).items() if not k.startswith('__')}\n"
    run(_BEGIN, _ADOPT, vars_of, program)


@pytest.mark.parametrize(
    "settings",
    [
        "Settings",
        "dict(functions=[job], queue_name='theirs', handle_signals=False)",
        "Filled(functions=[job])",
        "Frozen(functions=[job])",
        "Model(functions=[job])",
        "FromEnvironment(functions=[job])",
        "lambda: Settings",
        "make",
    ],
)
def test_settings_of_every_kind_are_adopted_and_may_be_completed_later(settings: str) -> None:
    """A class, a dictionary, an object, functions that return one; `ctx` is theirs, and options are ours."""
    program = f"""
    import pydantic, pydantic_settings

    @dataclasses.dataclass(frozen=False)
    class Filled:
        functions: list
        queue_name: str = "theirs"
        handle_signals: bool = False

    @dataclasses.dataclass(frozen=True)
    class Frozen:
        functions: list
        queue_name: str = "theirs"
        handle_signals: bool = False

    class Model(pydantic.BaseModel, frozen=True):
        functions: list
        queue_name: str = "theirs"
        handle_signals: bool = False

    class FromEnvironment(pydantic_settings.BaseSettings):
        functions: list
        queue_name: str = "theirs"
        handle_signals: bool = False

    def make():
        return Filled([job])

    options = tidepool.EngineOptions(lease_s=7.0)
    adopted = tidepool.adopt({settings}, options)
    later = {{"engine": "an engine of SQLAlchemy"}}
    if isinstance(adopted, dict):
        adopted["ctx"] = later
    elif isinstance(adopted, type):
        adopted.ctx = later
    else:
        vars(adopted)["ctx"] = later
    worker = arq.worker.create_worker(adopted)
    assert worker.tidepool_options.lease_s == 7.0 and worker.queue_name == "theirs"
    assert worker.ctx is later
    """
    run(_BEGIN, _ADOPT, program)


def test_adopted_settings_do_not_show_the_password_of_the_database() -> None:
    """As an error report does that shows the variables of a frame, or of a class."""
    program = """
    tidepool.adopt(Settings, database_url="postgresql://a:secret@b/c")
    assert "_Adoption" in repr(vars(Settings))
    assert "secret" not in repr(vars(Settings))
    """
    run(_BEGIN, _ADOPT, program)


def test_a_subclass_of_arqs_worker_keeps_its_own_methods() -> None:
    """It was made before ours was imported, and runs on our engine; also a subclass of a subclass."""
    own = """
    class Theirs(Early):
        def __init__(self, *args, mark="", **options):
            super().__init__(*args, **options)
            self.mark = mark

        async def run_job(self, job_id, score):
            return await super().run_job(job_id, score)

    class Further(Theirs):
        pass
    """
    program = """
    tidepool.adopt(Settings)
    worker = Further([job], mark="m", handle_signals=False)
    assert isinstance(worker, Further) and isinstance(worker, Ours) and worker.mark == "m"
    assert type(worker).run_job is Theirs.run_job and type(worker).start_jobs is Ours.start_jobs
    """
    run(_BEGIN, own, _ADOPT, program)


_JOBS = """
async def run(make, *ids):
    import pathlib, tempfile
    from arq.connections import ArqRedis
    from redis.asyncio import ConnectionPool
    from tidepool import embedded
    with tempfile.TemporaryDirectory() as home, embedded.join(pathlib.Path(home)) as membership:
        redis = ArqRedis(ConnectionPool.from_url(membership.urls.redis))
        for one in ids:
            await redis.enqueue_job("job", _job_id=one)
        worker = make(redis_pool=redis, burst=True, handle_signals=False, poll_delay=0)
        await worker.async_run()
        assert (len(ids), 0) == (worker.jobs_complete, worker.jobs_failed)
        await redis.aclose(close_connection_pool=True)
        return worker
"""


def test_a_subclass_may_have_any_names_of_its_own() -> None:
    """What our class adds to arq's has `tidepool` in its name, so an application's subclass cannot replace it."""
    own = """
    class Theirs(Early):
        options = observer = held_bytes = is_stopping = max_jobs_run = property(lambda self: "theirs")

        def perform(self):
            return "theirs"

        _perform = _open = _room = _end = _count = _rest = _parts = _name = _freed = perform
    """
    program = """
    tidepool.adopt(Settings)
    worker = asyncio.run(run(lambda **options: Theirs([job], **options), "a", "b"))
    assert isinstance(worker, Ours) and "theirs" == worker.perform() == worker.options
    added = (set(vars(Ours)) | set(vars(worker))) - set(dir(arqs))
    assert not {name for name in added - {"install"} if "tidepool" not in name and not name.startswith("__")}
    """
    arqs = """
    arqs = Early([job], handle_signals=False)
    """
    run(_BEGIN, own, arqs, _ADOPT, _JOBS, program)


@pytest.mark.parametrize(
    "own",
    [
        "def __init__(self, *args, **options): Early.__init__(self, *args, **options)",
        "def __init_subclass__(cls, *, registry): registry.append(cls)",
        "def __init__(self, *args, mark=1, **options): super().__init__(*args, **options)",
        "def __init__(self, *args, **options): super().__init__(*args, **options); super().__init__(*args, **options)",
    ],
    ids=["by name", "required keyword", "super", "twice"],
)
def test_a_subclass_may_extend_how_it_is_made(own: str) -> None:
    """By a call of the `__init__` of arq by its name; with a keyword that each subclass of theirs must give."""
    program = f"""
    class Base(Early):
        {own}

    registry = []
    keywords = dict(registry=registry) if "__init_subclass__" in vars(Base) else {{}}
    class Theirs(Base, **keywords): pass
    known = list(registry)
    tidepool.adopt(Settings)
    options = tidepool.EngineOptions(lease_s=7.0)
    worker = asyncio.run(run(lambda **rest: Theirs([job], tidepool=options, **rest), "a"))
    assert isinstance(worker, Ours) and isinstance(worker, Theirs) and known == registry
    assert 7.0 == worker.tidepool_options.lease_s
    """
    run(_BEGIN, _ADOPT, _JOBS, program)


def test_the_signature_of_a_subclass_stays_its_own() -> None:
    """The class of arq itself has our option in its signature, since arq reads names of options there."""
    program = """
    import inspect

    class Theirs(Early):
        def __init__(self, mark, **options): super().__init__(**options)

    class Same(Early): pass
    before = inspect.signature(Theirs)
    arqs = list(inspect.signature(Early).parameters)
    tidepool.adopt(Settings)
    assert before == inspect.signature(Theirs), inspect.signature(Theirs)
    assert [*arqs, "tidepool"] == list(inspect.signature(Early).parameters) == list(inspect.signature(Same).parameters)
    """
    run(_BEGIN, _ADOPT, program)


def test_a_wrapper_of_one_workers_run_job_sees_its_jobs() -> None:
    """It is an attribute of the instance."""
    program = """
    seen = []

    def make(**options):
        worker = Early([job], **options)
        theirs = worker.run_job
        async def run_job(job_id, score):
            seen.append(job_id)
            await theirs(job_id, score)
        worker.run_job = run_job
        return worker

    tidepool.adopt(Settings)
    asyncio.run(run(make, "a", "b"))
    assert ["a", "b"] == sorted(seen), seen
    """
    run(_BEGIN, _ADOPT, _JOBS, program)


@pytest.mark.parametrize(
    "wrapper",
    [
        "",
        "theirs = Early.run_job; Early.run_job = lambda self, *args: theirs(self, *args)",
    ],
    ids=["not wrapped", "wrapped"],
)
def test_ours_may_be_imported_after_the_collector_was_frozen(wrapper: str) -> None:
    """As servers that fork do after their imports; the collector's own list has no such objects."""
    freeze = """
    import gc
    gc.freeze()
    """
    program = """
    tidepool.adopt(Settings)
    assert Ours is type(asyncio.run(run(lambda **options: Early([job], **options), "a")))
    """
    run(_BEGIN, wrapper, freeze, _ADOPT, _JOBS, program)


def test_a_run_job_that_is_gone_is_said_in_words() -> None:
    """No caller could reach it."""
    program = """
    async def run_job(self, job_id, score): ...
    Early.run_job = run_job
    try:
        import tidepool.engine.worker
    except RuntimeError as error:
        assert "run_job has been replaced" in str(error)
    else:
        raise AssertionError
    """
    run(_BEGIN, program)


@pytest.mark.parametrize("wraps_first", [True, False], ids=["wrapped before", "wrapped after"])
@pytest.mark.parametrize("adopts", [True, False], ids=["ours", "arq's"])
def test_a_wrapper_of_run_job_sees_each_job(*, wraps_first: bool, adopts: bool) -> None:
    """As Sentry's integration and many a debugging module wrap it: in its own task, around hooks and function."""
    wrapper = """
    theirs = arq.worker.Worker.run_job
    seen = []

    async def run_job(self, job_id, score):
        seen.append(f"{job_id}-begins")
        try:
            await theirs(self, job_id, score)
        finally:
            seen.append(f"{job_id}-ends")

    arq.worker.Worker.run_job = run_job
    """
    program = f"""
    if {adopts}:
        tidepool.adopt(Settings)

    async def say(ctx):
        seen.append(ctx["job_id"])

    async def main():
        from arq.connections import ArqRedis
        from tidepool import embedded
        import pathlib, tempfile
        with tempfile.TemporaryDirectory() as home, embedded.join(pathlib.Path(home)) as membership:
            from redis.asyncio import ConnectionPool
            redis = ArqRedis(ConnectionPool.from_url(membership.urls.redis))
            for number in range(3):
                await redis.enqueue_job("say", _job_id=str(number))
            worker = Early([say], redis_pool=redis, burst=True, handle_signals=False, poll_delay=0)
            assert isinstance(worker, Ours) == {adopts}
            await worker.async_run()
            assert (3, 0) == (worker.jobs_complete, worker.jobs_failed)
            await redis.aclose(close_connection_pool=True)

    asyncio.run(main())
    print(*sorted(seen))
    """
    first, second = (wrapper, _ADOPT) if wraps_first else (_ADOPT, wrapper)
    expected = sorted(f"{number}{words}" for number in range(3) for words in ("", "-begins", "-ends"))
    assert expected == run(_BEGIN, first, second, program)


@pytest.mark.parametrize("configured", [False, True], ids=["logging", "structlog"])
def test_the_librarys_events_go_where_the_application_logs(*, configured: bool) -> None:
    """To the standard library's loggers, or to the application's structlog; never to standard output by themselves."""
    own = """
    import logging, structlog
    logging.basicConfig(format="%(name)s|%(levelname)s|%(message)s")
    if CONFIGURED:
        structlog.configure(processors=[lambda logger, method, event: "theirs:" + event["event"]])
    """
    program = """
    tidepool.adopt(Settings)
    from tidepool.engine.worker import log
    secret = "a " + "local variable"
    try:
        raise ValueError("100 % wrong")
    except ValueError:
        log.exception("hook.failed", hook="on_job_end")
    """
    done = ended(f"CONFIGURED = {configured}", _BEGIN, own, _ADOPT, program)
    if configured:
        assert ("theirs:hook.failed\n", "") == (done.stdout, done.stderr)
    else:
        assert "" == done.stdout
        first, *_, last = done.stderr.splitlines()
        assert "tidepool.engine.worker|ERROR|hook.failed hook='on_job_end'" == first
        assert "ValueError: 100 % wrong" == last
        assert "a local" not in done.stderr
