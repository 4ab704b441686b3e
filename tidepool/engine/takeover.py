"""Makes arq build our Worker wherever an application asks for one of arq's; wrappers of `run_job` see its jobs.

arq has no setting for another Worker class. An application gets a worker from the `arq` command, from `run_worker` and
`create_worker`, or from the class itself, which it may have imported at any time and may have extended. All of these
create an instance, so the class's `__new__` is the one place that they share; `take_over` sets it.

Other programs wrap `arq.worker.Worker.run_job` to observe jobs: Sentry's integration for arq, for instance. They may do
so before this module is imported or after. So arq's function stays where it is, and only its code is replaced: it calls
the method `tidepool_run_job`, which is what arq's function has been for workers of arq's own, and another one for ours.
"""

import functools
import gc
import inspect
from types import FunctionType
from typing import Any, cast

import arq.worker

_Worker = arq.worker.Worker
_OWN_OPTION = inspect.Parameter("tidepool", inspect.Parameter.KEYWORD_ONLY, default=None)
"""arq reads the names of a worker's options off the signature of the class."""


def take_over(ours: type[_Worker]) -> None:
    """Make every new instance of `arq.worker.Worker` one of *ours*, a subclass; for good, and only once.

    An instance of a subclass of arq's Worker becomes one of a class that extends both it and *ours*. From then on arq
    also reads the option `tidepool` from an application's settings, and passes it to the worker.
    """
    if isinstance(vars(_Worker).get("__signature__"), _Signature):
        return

    @functools.cache
    def instead_of(asked: type[_Worker]) -> type[_Worker]:
        if issubclass(asked, ours):
            return asked
        if asked is _Worker:
            return ours
        return type(asked.__name__, (_Quiet, asked, ours), {"__module__": asked.__module__, "__doc__": asked.__doc__})

    def new(asked: type[_Worker], *_args: object, **_options: object) -> _Worker:
        return object.__new__(instead_of(asked))

    arqs_init: Any = _Worker.__init__

    @functools.wraps(arqs_init)
    def init(self: _Worker, *args: Any, **options: Any) -> None:  # a subclass may call it by name, and so pass ours by
        is_passed_by = isinstance(self, ours) and not getattr(self, "tidepool_is_begun", False)
        (ours.__init__ if is_passed_by else arqs_init)(self, *args, **options)

    worker: Any = _Worker
    vars(init)["__signature__"] = _with_own_option(inspect.signature(arqs_init))
    worker.__new__, worker.__init__ = new, init
    worker.__signature__ = _Signature()


class _Signature:
    """The signature of arq's class and of each subclass: that of its `__init__`, as if there were no `__new__`."""

    def __get__(self, _worker: object, asked: type[_Worker]) -> inspect.Signature:
        signature = inspect.signature(asked.__init__)
        return signature.replace(parameters=list(signature.parameters.values())[1:])


def _with_own_option(signature: inspect.Signature) -> inspect.Signature:
    return signature.replace(parameters=[*signature.parameters.values(), _OWN_OPTION])


class _Quiet:
    """The first base of a class that an application has not written: it asks no other base about a new subclass."""

    def __init_subclass__(cls) -> None:
        pass


def _replace_code_of_run_job() -> FunctionType:
    """Replace the code of arq's `run_job`; return that function, which may be hidden in a wrapper by now."""

    async def run_job(self: Any, job_id: str, score: int) -> None:
        await self.tidepool_run_job(job_id, score)

    original = _original_run_job()
    worker: Any = _Worker
    worker.tidepool_run_job = FunctionType(original.__code__, original.__globals__, "run_job")
    original.__code__ = run_job.__code__
    return original


def _original_run_job() -> FunctionType:
    """Return arq's own `run_job`: the method itself, or what its wrappers refer to, however deep.

    Raises `RuntimeError` if nothing refers to it. Objects that `gc.freeze` has set aside are found, too.
    """
    found: list[object] = [_Worker.run_job]
    seen = {id(_Worker.run_job)}
    for one in found:  # grows meanwhile: the nearest are first
        if _is_run_job(one):
            return cast("FunctionType", one)
        new = [other for other in gc.get_referents(one) if id(other) not in seen]
        seen.update(map(id, new))
        found += new
    raise RuntimeError("tidepool: arq.worker.Worker.run_job has been replaced by a function that does not call it")


def _is_run_job(one: object) -> bool:
    if type(one) is not FunctionType:  # not isinstance, which would run code of proxies
        return False
    code = one.__code__
    return code.co_qualname == "Worker.run_job" and code.co_filename == arq.worker.__file__


RUN_JOB = _replace_code_of_run_job()
"""arq's method `run_job`. If a class of workers has another one, somebody wraps or overrides it."""
