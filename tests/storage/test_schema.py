"""The schema of the library's tables: no statement needs a search path, and no table of anybody else is touched."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from commands import Service
from roles import as_role

from tidepool import settings
from tidepool.client import JobClient
from tidepool.jobs.job import IDENTITY_MS
from tidepool.jobs.outcomes import Applied
from tidepool.pool.config import PoolConfig
from tidepool.pool.faults import Refused
from tidepool.pool.side_connection import SideConnection
from tidepool.storage.migrator import Migrations
from tidepool.storage.queries import Queries
from tidepool.storage.repositories import Repositories
from tidepool.storage.results import Entry

LIBRARY = [path.stem for path in Path(settings.__file__).parent.joinpath("storage", "sql").glob("*.sql")]
SHOP = """
from collections.abc import Sequence

from tidepool import App, Applied, Command, Job, Migrations, Transaction

app = App(migrations=Migrations(shop="shop_tables"), wraps_results=True)


class Order(Command):
    sku: str


@app.batch
async def order(transaction: Transaction, jobs: Sequence[Job[Order]]):
    query = "INSERT INTO public.orders (sku) SELECT unnest($1::text[]) RETURNING order_no"
    rows = await transaction.fetch(query, [job.command.sku for job in jobs])
    return [Applied({"order_no": row["order_no"]}) for row in rows]


def __getattr__(name):
    if name == "WorkerSettings":
        return app.worker_settings()
    raise AttributeError(name)
"""
TABLES_OF_THE_SHOP = """
CREATE TABLE public.users (login text PRIMARY KEY, password text);
CREATE TABLE public.orders (order_no bigint GENERATED ALWAYS AS IDENTITY, sku text);
CREATE TABLE public.products (sku text);
CREATE TABLE public.schema_migrations (version varchar PRIMARY KEY);
CREATE TABLE public.job_results (id integer, what text);
CREATE TABLE public.retention (id integer);
INSERT INTO public.users VALUES ('ada', 'x');
INSERT INTO public.schema_migrations VALUES ('20260101000000');
INSERT INTO public.job_results VALUES (1, 'theirs')
"""


def an_entry(job_id: str) -> Entry:
    """Return the ledger's row of an applied job."""
    return Entry(job_id, "applied", "{}", None, None, None, 1, 0, 0, 1, 1)


async def test_two_schemas_in_one_database_do_not_see_each_other(empty_database: PoolConfig) -> None:
    """Each has its own rows under the same ids, and one can be dropped without the other."""
    one, two = (replace(empty_database, schema=schema) for schema in ("one", "order"))
    for config in (one, two):
        assert 4 == len(await Migrations().migrate(config))
        assert [] == await Migrations().migrate(config)
    connections = [await config.connect("test") for config in (one, two)]
    ledgers = [Repositories(connection).results for connection in connections]
    key = ("a", IDENTITY_MS)
    assert 1 == await ledgers[0].write("f", [an_entry("a")], worker_id="w", db_us=1)
    assert {key: Applied({})} == await ledgers[0].lookup([key])
    assert {} == await ledgers[1].lookup([key])
    assert 1 == await ledgers[1].write("f", [an_entry("a")], worker_id="w", db_us=1)
    assert 1 == await ledgers[1].prune(datetime.now(UTC))
    assert {key: Applied({})} == await ledgers[0].lookup([key])

    await connections[0].execute("DROP SCHEMA one CASCADE")
    assert [] == await Migrations.missing_parts(connections[1])
    assert [] == await Repositories(connections[1]).snapshots.fleet_health(datetime.now(UTC))
    for connection in connections:
        await connection.close()


@pytest.fixture
async def nowhere(empty_database: PoolConfig) -> PoolConfig:
    """Give a database with the library's tables, in which no name is found without its schema."""
    connection = await empty_database.connect("test")
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET search_path = ''")
    await connection.close()
    config = replace(empty_database, schema="lib")
    await Migrations().migrate(config)
    return config


async def test_no_query_depends_on_a_search_path(nowhere: PoolConfig) -> None:
    """PostgreSQL finds every table, type and function that a query names, though its search path is empty."""
    connection = await nowhere.connect("test")
    assert "" == (await connection.fetchval("SHOW search_path")).strip('"')
    sources = [*((table, "tidepool.storage") for table in LIBRARY if table != "roles"), ("capacity", "tidepool.fleet")]
    prepared = 0
    for table, package in sources:
        for name, text in Queries(table, package).of("lib").items():
            if re.search(r"^(?:SELECT|INSERT|UPDATE|DELETE|WITH)", text, re.MULTILINE) and "DO $" not in text:
                await connection.execute(f"PREPARE {table}_{name} AS {text}")
                prepared += 1
    assert prepared > 30
    await connection.close()


async def test_no_view_and_no_function_depends_on_a_search_path(nowhere: PoolConfig) -> None:
    """Their bodies are read when they are used, by whoever uses them."""
    connection = await nowhere.connect("test")
    await connection.execute(
        "INSERT INTO lib.pool_processes (instance_id, worker_id, host, pid, started_at, versions, config)"
        " VALUES (gen_random_uuid(), 'w', 'h', 1, now(), '{}', '{}')"
    )
    row = {**dict.fromkeys(await counters(connection), 1), "wait_hist": [1, 2], "hold_hist": [1, 2]}
    await connection.execute(
        "INSERT INTO lib.pool_snapshots SELECT (jsonb_populate_record(null::lib.pool_snapshots, $1::jsonb"
        " || jsonb_build_object('instance_id', p.instance_id, 'worker_id', 'w', 'host', 'h', 'tick', now(),"
        " 'started_at', now() - interval '1 minute', 'captured_at', now(), 'written_at', now()))).*"
        " FROM lib.pool_processes AS p",
        json.dumps(row),
    )
    snapshots, since = Repositories(connection).snapshots, datetime(2000, 1, 1, tzinfo=UTC)
    (of_the_process,) = await snapshots.pool_health(since)
    (of_all,) = await snapshots.fleet_health(since)
    assert of_the_process["wait_p50_ms"] == of_all["wait_p50_ms"] is not None
    assert 1 == len(await snapshots.window(since, timedelta(seconds=1), until=datetime.now(UTC)))
    await connection.close()


async def counters(connection: Any) -> list[str]:
    """Return the numeric columns of `pool_snapshots` that cannot be null."""
    query = (
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'lib' AND is_nullable = 'NO'"
        " AND table_name = 'pool_snapshots' AND data_type IN ('integer', 'bigint')"
    )
    return [row["column_name"] for row in await connection.fetch(query)]


@pytest.fixture
async def owner(empty_database: PoolConfig) -> AsyncIterator[PoolConfig]:
    """Give a database to a role that has the name of the library's schema, and owns nothing else."""
    admin = await empty_database.connect("test")
    name = await admin.fetchval("SELECT current_database()")
    await admin.execute("CREATE ROLE tidepool LOGIN; GRANT CREATE ON SCHEMA public TO tidepool")
    await admin.execute(f"GRANT CREATE ON DATABASE {name} TO tidepool")
    yield replace(as_role(empty_database, "tidepool"), schema="tidepool")
    await admin.execute("DROP OWNED BY tidepool CASCADE; DROP ROLE tidepool")
    await admin.close()


async def everything_public(connection: Any) -> dict[str, list[Any]]:
    """Return columns and rows of all tables of the schema public."""
    names = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
    found = {}
    for (name,) in names:
        rows = await connection.fetch(f"SELECT to_jsonb(t)::text FROM public.{name} AS t ORDER BY 1")
        found[name] = [row[0] for row in rows]
    return found


@pytest.mark.parametrize("search_path", ["DEFAULT", "''"])
async def test_an_application_keeps_its_tables_of_the_same_names(
    owner: PoolConfig, service: Service, client: JobClient, tmp_path: Path, search_path: str
) -> None:
    """A worker and the operators' commands use the schema tidepool, whatever is found in the role's search path."""
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "shop_tables" / "migrations").mkdir(parents=True)
    adding = "ALTER TABLE public.orders ADD COLUMN note text;\nCREATE VIEW public.ended AS TABLE {schema}.job_results;"
    (tmp_path / "shop_tables" / "migrations" / "0001_note.sql").write_text(adding)
    connection = await owner.connect("test")
    await connection.execute(TABLES_OF_THE_SHOP)
    before = await everything_public(connection)
    await connection.execute(f"ALTER ROLE tidepool SET search_path = {search_path}")
    service.environment |= {"DATABASE_URL": owner.url, "PYTHONPATH": str(tmp_path), "TIDEPOOL_APP": "shop:app"}

    job_id = await client.enqueue("order", {"sku": "LAMP"})
    worked = await asyncio.to_thread(service.run, "arq", "shop.WorkerSettings", "--burst")
    assert 0 == worked.status, worked.stderr
    assert 1 == await connection.fetchval("SELECT count(*) FROM tidepool.job_results WHERE job_id = $1", job_id)
    for words in (("results",), ("snapshots",), ("pool",), ("why",), ("migrate",)):
        ended = await asyncio.to_thread(tidepool, service, *words, "--json")
        assert (0, "") == (ended.returncode, ended.stderr)
        assert words != ("results",) or [job_id] == [row["job_id"] for row in json.loads(ended.stdout)]

    after = await everything_public(connection)
    assert [{"order_no": 1, "sku": "LAMP", "note": None}] == [json.loads(row) for row in after.pop("orders")]
    assert after == {name: rows for name, rows in before.items() if name != "orders"}
    assert 1 == await connection.fetchval("SELECT count(*) FROM public.ended")
    await connection.close()


def tidepool(service: Service, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command `tidepool` in the environment of *service*."""
    command = (sys.executable, "-c", "from tidepool.cli import main; main()", *words)
    root = Path(__file__).parents[2]
    return subprocess.run(command, env=service.environment, cwd=root, capture_output=True, text=True, check=False)


async def test_a_role_that_may_create_no_schema_says_what_to_run(owner: PoolConfig, empty_database: PoolConfig) -> None:
    """The database's owner runs it, and the role does the rest."""
    admin = await empty_database.connect("test")
    name = await admin.fetchval("SELECT current_database()")
    await admin.execute(f"REVOKE CREATE ON DATABASE {name} FROM tidepool")
    with pytest.raises(Refused, match='CREATE SCHEMA "tidepool" AUTHORIZATION tidepool') as refused:
        await Migrations().migrate(owner)
    assert "\n" not in str(refused.value)
    await admin.execute("CREATE SCHEMA tidepool AUTHORIZATION tidepool")
    assert 4 == len(await Migrations().migrate(owner))
    await admin.close()


async def test_tables_in_another_schema_are_missing(database: PoolConfig) -> None:
    """A process whose DB_SCHEMA is wrong names it."""
    side = SideConnection(replace(database, schema="elsewhere"), "start")
    with pytest.raises(Refused, match=r"its tables are missing in the schema elsewhere \(DB_SCHEMA\)"):
        await Migrations.require(side, tables=True)
    await side.close()


async def recorded(connection: Any) -> list[Any]:
    """Return what is written down about the applied migrations."""
    query = (
        "SELECT set_name, version, name, checksum, breaks_older, columns FROM public.tidepool_migrations ORDER BY 1, 2"
    )
    return [tuple(row) for row in await connection.fetch(query)]


async def test_the_printed_sql_does_what_migrate_does(
    service: Service, connection: Any, empty_database: PoolConfig
) -> None:
    """It is printed without a server, may run twice, and records the same: `migrate` finds nothing to apply then."""
    ended = service.run("worker", "migrate", "--sql", DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert (0, "") == (ended.status, ended.stderr)
    by_hand = await replace(empty_database, schema="public").connect("psql")
    for _ in range(2):
        await by_hand.execute(ended.stdout)
        assert await recorded(connection) == await recorded(by_hand)
    await by_hand.close()
    service.environment["DATABASE_URL"] = empty_database.url
    assert {"applied": []} == service.run("worker", "migrate", "--json").document
    assert {"sql": ended.stdout.rstrip("\n")} == service.run("worker", "migrate", "--sql", "--json").document


def test_the_default_is_a_schema_of_our_own() -> None:
    """The service alone keeps its tables where everybody looks first."""
    assert "tidepool" == settings.Settings.load({}).db_schema == PoolConfig(url="", application_name="").schema
