"""The producer's runs with real workers: every job has one outcome, and the report says which."""

import asyncio
import json
import os
import signal
from typing import Any

import pytest
from commands import Service, until


def lines(*commands: dict[str, Any] | str) -> str:
    """Return a commands file."""
    return "".join((c if isinstance(c, str) else json.dumps(c)) + "\n" for c in commands)


def user(name: str, **fields: Any) -> dict[str, Any]:
    """Return a line that creates a user."""
    fields = {"username": name, "email": f"{name}@example.org", "full_name": name.title(), **fields}
    return {"job": "create_user", "id": f"user-{name}", "args": fields}


def product(sku: str, **fields: Any) -> dict[str, Any]:
    """Return a line that creates a product."""
    fields = {"sku": sku, "name": sku, "price": "2.50", "category": "things", **fields}
    return {"job": "create_product", "id": f"product-{sku}", "args": fields}


def order(number: int, name: str, sku: str, **fields: Any) -> dict[str, Any]:
    """Return a line that places an order."""
    return {
        "job": "place_order",
        "id": f"order-{number}",
        "args": {"username": name, "sku": sku, "quantity": 3, **fields},
    }


async def test_a_generated_workload_adds_up(service: Service, rows: Any) -> None:
    """Enqueued = applied + rejected, none failed, and the database has exactly those effects."""
    ended = service.run("producer", "--jobs", "2000", "--workers", "2", "--seed", "7", "--json")
    report = ended.document

    assert (0, 2000) == (ended.status, report["enqueued"]), ended.stderr
    assert report["applied"] + report["rejected"] == 2000
    assert 0 == report["failed"] == report["pending"]
    (counts,) = await rows(
        "SELECT (SELECT count(*) FROM users) + (SELECT count(*) FROM products) + (SELECT count(*) FROM orders)"
        " AS effects,"
        " (SELECT count(*) FROM job_results WHERE status = 'applied') AS applied"
    )
    assert {"effects": report["applied"], "applied": report["applied"]} == counts


@pytest.mark.slow
async def test_a_serializable_database_ends_no_run(service: Service, rows: Any, connection: Any) -> None:
    """Its default is that of the follower's reads, of which any may conflict with what the workers write.

    The chances of that in one run are low: `ledger/test_isolation.py` forces the conflicts.
    """
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    words = ("--jobs", "4000", "--workers", "2", "--seed", "5", "--json")
    ended = await asyncio.to_thread(service.run, "producer", *words, STATS_INTERVAL="0.2")
    counts = await rows("SELECT status, count(*) FROM job_results GROUP BY status ORDER BY status")

    assert (0, 4000, 0, 0) == (ended.status, *(ended.document[name] for name in ("enqueued", "pending", "failed")))
    assert "" == ended.stderr
    assert [("applied", ended.document["applied"]), ("rejected", ended.document["rejected"])] == [
        tuple(row.values()) for row in counts
    ]


@pytest.mark.slow
def test_the_same_seed_again_is_all_duplicates(service: Service) -> None:
    """A second run of one workload enqueues nothing and applies nothing."""
    service.run("producer", "--jobs", "300", "--workers", "1", "--seed", "11", "--json")

    again = service.run("producer", "--jobs", "300", "--workers", "1", "--seed", "11", "--json").document

    assert {"enqueued": 0, "duplicates": 300, "applied": 0} == {
        k: again[k] for k in ("enqueued", "duplicates", "applied")
    }


async def test_a_file_is_applied_once_and_its_bad_lines_are_refused(service: Service, rows: Any) -> None:
    """Lines that are wrong are named with number, field and reason; the others go on; status 1 says so."""
    text = lines(
        user("ada"),
        product("tea"),
        '{"job": "create_user", "args": {"username": "b',
        user("bob", email="no-at-sign"),
        order(1, "ada", "tea"),
        order(2, "ada", "tea", quantity=0),
        {"job": "fly_to_the_moon", "args": {}},
    )
    ended = service.run("producer", "--file", "-", "--workers", "1", "--json", stdin=text)
    report = ended.document

    assert (1, 3, 4) == (ended.status, report["enqueued"], report["refused"])
    assert {"applied": 3, "rejected": 0, "failed": 0} == {k: report[k] for k in ("applied", "rejected", "failed")}
    errors = ended.stderr.splitlines()
    for start, words in (
        ("line 3", "JSON"),
        ("line 4", "email"),
        ("line 6", "quantity"),
        ("line 7", "job"),
    ):
        assert any(line.startswith(start) and words in line for line in errors), (start, words, errors)
    (total,) = await rows("SELECT sum(total_price)::text AS total FROM orders")
    assert {"total": "7.50"} == total


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_pipe_that_stays_open_holds_nothing_up(service: Service, rows: Any, number: int) -> None:
    """As of `tail -f`: a line's job is applied while no other line comes, and a signal ends the run at once.

    Lines were read on the event loop: nothing was enqueued before 500 more, and the first Ctrl-C did nothing.
    """
    with service.producer("--file", "-", "--workers", "1") as producer:
        assert producer.stdin is not None
        for name in ("ada", "eve"):
            producer.stdin.write(lines(user(name)))
            producer.stdin.flush()
            assert await until(lambda name=name: rows(f"SELECT 1 FROM job_results WHERE job_id = 'user-{name}'"))

        producer.send_signal(number)

        assert 128 + number == producer.wait(20)
        assert "" == producer.stderr.read() if producer.stderr else ""
        with pytest.raises(ProcessLookupError):
            os.killpg(producer.pid, 0)  # its worker is gone with it


@pytest.mark.slow
async def test_an_order_may_overtake_its_user(service: Service, rows: Any) -> None:
    """An order that names a user who is not there yet waits for the user, and is applied when the user has come."""
    service.run("producer", "--file", "-", stdin=lines(product("tea"), order(1, "late", "tea")))
    service.start_worker()

    async def product_is_there() -> Any:
        return await rows("SELECT 1 FROM products")

    async def order_is_settled() -> Any:
        return await rows("SELECT status FROM job_results WHERE job_id = 'order-1'")

    await until(product_is_there)
    service.run("producer", "--file", "-", stdin=lines(user("late")))

    assert [{"status": "applied"}] == await until(order_is_settled)


def test_rejected_jobs_run_again_when_they_are_requeued(service: Service) -> None:
    """A requeued job keeps its id, runs once more, and its new outcome replaces the old one; applied ones never run."""
    text = lines(user("ada"), product("tea", in_stock=False), order(1, "ada", "tea"))
    first = service.run("producer", "--file", "-", "--workers", "1", "--json", stdin=text).document
    assert {"out_of_stock": 1} == first["rejections"]
    restock = {"job": "set_stock", "id": "restock", "args": {"sku": "tea", "in_stock": True}}
    service.run("producer", "--file", "-", "--workers", "1", stdin=lines(restock))

    requeued = service.run("producer", "requeue", "order-1", "user-ada", "--json")
    service.start_worker("--burst").wait()

    assert (1, {"requeued": 1, "not_requeued": ["user-ada"], "left_out": 0}) == (requeued.status, requeued.document)
    (row,) = service.run("producer", "results", "order-1", "--json").document
    assert ("applied", None) == (row["status"], row["requeued_at"])
