"""Runs blocking functions in threads: `threaded`, and plain `def` functions in a worker's list of functions.

Each running job has a thread of its own, so none waits for another one's, a timeout counts from its thread's start, and
`max_jobs` and `EngineOptions.concurrency` limit the threads.
"""

import asyncio
import contextvars
import functools
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar, cast

from arq.worker import func

P = ParamSpec("P")
T = TypeVar("T")

TIMED_OUT = "the job's time is over"
"""The message of the cancellation with which a job's timeout ends it, also while the worker stops."""
_is_stopping: contextvars.ContextVar[Callable[[], bool]] = contextvars.ContextVar(
    "is the worker stopping", default=lambda: False
)


def threaded(function: Callable[P, T]) -> Callable[P, Coroutine[object, object, T]]:
    """Return an async function, which arq accepts, that calls the blocking *function* in a thread. Use it as decorator.

    The thread has the caller's context variables. What *function* returns or raises is the job's result or error.

    A thread cannot be cancelled. After a timeout or an abort the job ends at once, and the thread goes on without it,
    not counted by any limit; it can read `ctx["tidepool"].is_aborted` to end early. When the worker stops, it waits
    until the thread has returned, or the job's timeout is over, and records its result: until then no other worker runs
    the job. If the process is killed before that, the job's worker was lost, which spends a try.
    """

    @functools.wraps(function)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return await _call_in_thread(functools.partial(function, *args, **kwargs))

    return run


def accepted(functions: Iterable[Any]) -> list[Any]:
    """Return a worker's *functions* with `threaded` ones in place of plain `def` functions and methods."""
    return [threaded(one) if _is_blocking(one) else one for one in functions]


def wait_at_stop(is_stopping: Callable[[], bool]) -> None:
    """Make threaded calls of the current context wait for their threads when cancelled while *is_stopping*."""
    _is_stopping.set(is_stopping)


def _is_blocking(one: object) -> bool:
    """Return whether *one* is a function that arq refuses because it does not take it for an async one."""
    if not inspect.isfunction(one) and not inspect.ismethod(one):
        return False
    try:
        func(cast("Any", one))
    except RuntimeError:
        return True
    return False


def _name_of(function: Callable[..., object]) -> str:
    """Return a function's name; that of its class for a callable object."""
    return getattr(function, "__qualname__", type(function).__qualname__)


async def _call_in_thread(call: functools.partial[T]) -> T:
    """Call *call* in a new thread, and return its result or raise its error.

    Raises `CancelledError` at once if the task is cancelled, except while the worker stops and the job has time left.
    Raises `TypeError` if the result is a coroutine: the function is an async one in a wrapper that is not.
    """
    loop, has_returned = asyncio.get_running_loop(), asyncio.Event()
    future = Future[T]()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001  (raised again in the job's task)
            future.set_exception(error)
        with suppress(RuntimeError):  # the loop has ended without waiting for this thread
            loop.call_soon_threadsafe(has_returned.set)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), name=f"job {_name_of(call.func)}", daemon=True).start()
    while not has_returned.is_set():
        try:
            await has_returned.wait()
        except asyncio.CancelledError as error:
            if error.args == (TIMED_OUT,) or not _is_stopping.get()():
                raise
    result = future.result()
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError(f"{_name_of(call.func)} returned a coroutine; make it an async function")
    return result
