"""Taking commands: what is there goes at once, in order, and nobody waits for a pipe but its reader."""

import asyncio
import os
from collections.abc import Iterator

import pytest

from producer.commands_file import CommandReader, Item, RefusedLine
from tidepool.client import MOST_AT_ONCE


def refusals(count: int) -> Iterator[Item]:
    """Yield items that differ."""
    for number in range(count):
        yield RefusedLine(number, "", "")


async def all_of(reader: CommandReader, most: int) -> list[Item]:
    """Take everything."""
    items: list[Item] = []
    while taken := await reader.take(most):
        assert len(taken) <= most
        items.extend(taken)
    return items


@pytest.mark.parametrize("count", [0, 1, MOST_AT_ONCE, 20 * MOST_AT_ONCE + 1])
async def test_everything_comes_once_and_in_order(count: int) -> None:
    """However the reader and the taker overtake each other; at the end there is nothing, again and again."""
    reader = CommandReader(refusals(count))
    async with asyncio.timeout(10):
        assert list(refusals(count)) == await all_of(reader, 300)
        assert [] == await reader.take(300)


async def test_a_line_is_taken_while_the_next_is_waited_for() -> None:
    """Other tasks run meanwhile."""
    ours, theirs = os.pipe()
    with os.fdopen(ours, "rb") as stream, os.fdopen(theirs, "wb", buffering=0) as pipe:
        reader = CommandReader.of_lines(stream, source="-")
        async with asyncio.timeout(10):
            for number in (1, 2):
                taking = asyncio.create_task(reader.take(300))
                await asyncio.sleep(0)
                assert not taking.done()
                pipe.write(b"no command\n")
                (refusal,) = await taking
                assert isinstance(refusal, RefusedLine)
                assert number == refusal.line
            pipe.write(b"the last line may lack its end")
            pipe.close()
            assert 1 == len(await all_of(reader, 300))


async def test_no_more_is_read_ahead_than_one_round_trip() -> None:
    """A file may be larger than the memory."""
    read = taken = 0

    def counted() -> Iterator[Item]:
        nonlocal read
        for item in refusals(5 * MOST_AT_ONCE):
            read += 1
            yield item

    reader = CommandReader(counted())
    async with asyncio.timeout(10):
        while await reader.take(1):
            taken += 1
            assert read <= taken + MOST_AT_ONCE
    assert 5 * MOST_AT_ONCE == taken


async def test_a_fault_in_reading_comes_after_what_was_read() -> None:
    """To the taker."""

    def broken() -> Iterator[Item]:
        yield from refusals(3)
        raise OSError("the disk is gone")

    reader = CommandReader(broken())
    assert list(refusals(3)) == [*await reader.take(1), *await reader.take(1), *await reader.take(1)]
    with pytest.raises(OSError, match="the disk is gone"):
        await reader.take(1)
