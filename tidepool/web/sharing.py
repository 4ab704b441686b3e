"""Coalesces calls: callers that come at the same time share a round trip.

While one call is in progress, the questions of further callers are collected for the next one. There is no timer, so a
lone caller is not delayed, and two hundred cost a handful of round trips.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Shared(Generic[Q, A]):
    """Collects single questions into calls of up to *most* questions.

    *call* gets a list of questions, and returns the answers in the same order. An error of a call is raised to each of
    its callers.
    """

    def __init__(self, call: Callable[[Sequence[Q]], Awaitable[Sequence[A]]], most: int) -> None:
        self._call = call
        self._most = most
        self._waiting: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._calling: asyncio.Task[None] | None = None

    async def __call__(self, question: Q) -> A:
        """Return the answer to *question*, which is asked together with the questions of other callers.

        Cancelling a caller does not withdraw its question.
        """
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._calling is None:
            self._calling = asyncio.create_task(self._run(), name="shared calls")
        return await future

    async def _run(self) -> None:
        await asyncio.sleep(0)  # other callers of this turn of the event loop come along
        try:
            while self._waiting:
                await self._call_once([self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))])
        finally:
            self._calling = None

    async def _call_once(self, asked: Sequence[tuple[Q, asyncio.Future[A]]]) -> None:
        try:
            answers = await self._call([question for question, _ in asked])
        except Exception as error:  # noqa: BLE001  (its callers get it)
            for _, future in asked:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in zip(asked, answers, strict=True):
            if not future.done():
                future.set_result(answer)
