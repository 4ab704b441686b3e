"""What waiting cannot mend ends a start at once, with the server's own words; what can pass is waited for."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from arq.connections import ArqRedis
from redis.exceptions import AuthenticationError, AuthenticationWrongNumberOfArgsError, NoPermissionError
from redis.exceptions import ConnectionError as RedisConnectionError

from tidepool.health.readiness import Readiness
from tidepool.pool.config import PoolConfig
from tidepool.pool.faults import DatabaseFault, Refused, ServerError, Unavailable, words
from tidepool.pool.pool import Pool
from tidepool.pool.side_connection import SideConnection
from tidepool.protocols import other_than
from tidepool.queue.connection import RedisClient
from tidepool.queue.faults import RedisFault, RedisRefused
from tidepool.storage.requirements import require
from tidepool.urls import PostgresUrl
from worker import app

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
INFO = "redis_mode:standalone\r\nrole:master\r\ncluster_enabled:0\r\nmaxmemory_policy:noeviction\r\n"


@asynccontextmanager
async def listening(answer: Answer) -> AsyncIterator[int]:
    """Give the port of a server that answers each connection so."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except ValueError:
            pass  # the question whether something else is spoken here
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def postgres_that_says(state: str, message: str) -> Answer:
    """Return a PostgreSQL that answers the startup packet with this error."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack("!I", await reader.readexactly(4))
        await reader.readexactly(length - 4)
        fields = b"".join(
            f"{letter}{text}".encode() + b"\0" for letter, text in (("S", "FATAL"), ("C", state), ("M", message))
        )
        writer.write(b"E" + struct.pack("!I", len(fields) + 5) + fields + b"\0")
        await writer.drain()
        await reader.read()

    return answer


def postgres_that_pools_statements() -> Answer:
    """Return a PgBouncer in statement mode, as far as a start gets: it ends the connection at a BEGIN."""

    def message(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("!I", len(body) + 4) + body

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack("!I", await reader.readexactly(4))
        await reader.readexactly(length - 4)
        version = b"server_version\0" + b"16.0\0"
        ready = message(b"Z", b"I")
        writer.write(message(b"R", struct.pack("!I", 0)) + message(b"S", version) + ready)
        while True:
            kind, length = struct.unpack("!cI", await reader.readexactly(5))
            text = await reader.readexactly(length - 4)
            if kind == b"Q" and b"BEGIN" in text:
                break
            writer.write((message(b"C", b"SET\0") if text.strip(b"\0") else message(b"I", b"")) + ready)
        said = "transaction blocks not allowed in statement pooling mode"
        writer.write(message(b"E", f"SFATAL\0C08P01\0M{said}\0\0".encode()))
        await writer.drain()

    return answer


async def test_a_pooler_in_statement_mode_ends_a_start() -> None:
    """It serves every statement but BEGIN, and looks like a server that cuts connections."""
    async with listening(postgres_that_pools_statements()) as port:
        config = PoolConfig(url=f"postgresql://u@127.0.0.1:{port}/d?sslmode=disable", application_name="t")
        with pytest.raises(Refused, match=r"not allowed in statement pooling mode .*pool_mode"):
            async with asyncio.timeout(5):
                await config.until_available(lambda: check(config), None)


async def check(config: PoolConfig, **needs: bool) -> None:
    """Check the requirements over a connection of its own."""
    side = SideConnection(config, "start")
    try:
        await require(side, **needs)
    finally:
        await side.close()


def redis_that_says(replies: dict[str, str], info: str = INFO) -> Answer:
    """Return a Redis with these replies by command, and this INFO; it answers OK to everything else."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while count := int((await reader.readline() or b"*0")[1:]):
            parts = []
            for _ in range(count):
                size = int((await reader.readline())[1:])
                parts.append((await reader.readexactly(size + 2))[:-2].decode())
            name = parts[0].upper()
            bulk = f"${len(info)}\r\n{info}\r\n"
            writer.write(
                (f"{replies[name]}\r\n" if name in replies else bulk if name == "INFO" else "+OK\r\n").encode()
            )
            await writer.drain()

    return answer


@pytest.mark.parametrize(
    ("state", "message", "fault"),
    [
        ("08P01", "unsupported startup parameter: search_path=public", Refused),
        ("08P01", "something that nobody has seen yet", Refused),
        ("08P01", "server login has been failing, try again later (server_login_retry)", Unavailable),
        ("08P01", "query_wait_timeout", Unavailable),
        ("08P01", "no more connections allowed (max_client_conn)", Unavailable),
        ("08006", "the connection failed", Unavailable),
        ("53300", "sorry, too many clients already", Unavailable),
        ("57P03", "the database system is starting up", Unavailable),
        ("57P01", "terminating connection due to administrator command", Unavailable),
        ("28P01", 'password authentication failed for user "ada"', Refused),
        ("28000", "no pg_hba.conf entry for host", Refused),
        ("3D000", 'database "shop" does not exist', Refused),
        ("42704", 'unrecognized configuration parameter "junk"', Refused),
        ("22023", "invalid value for parameter", Refused),
        ("55000", 'database "shop" is not currently accepting connections', Refused),
        ("XX000", "Tenant or user not found", Refused),
        ("42501", "permission denied", Refused),
        ("26000", "prepared statement does not exist", Refused),
        ("42P05", 'prepared statement "__asyncpg_stmt_1__" already exists', Refused),
        ("99999", "an error of a class that nobody knows", Refused),
    ],
)
async def test_the_servers_words_reach_the_person_whatever_their_state(
    state: str, message: str, fault: type[Exception]
) -> None:
    """Beside the pool and in it; and only what is known to pass is waited for."""
    async with listening(postgres_that_says(state, message)) as port:
        config = PoolConfig(url=f"postgresql://u:hunter2@127.0.0.1:{port}/d?sslmode=disable", application_name="t")
        for attempt in (config.connect("test"), Pool.open(config)):
            with pytest.raises(fault) as met:
                await attempt
            assert message in str(met.value)
            assert "hunter2" not in str(met.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("PGPORT", "abc"), ("PGSSLMODE", "bogus"), ("PGTARGETSESSIONATTRS", "any-old"), ("PGSSLROOTCERT", __file__)],
)
async def test_an_environment_that_the_driver_cannot_use_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """It reads libpq's variables by itself."""
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv(variable, value)
    with pytest.raises(Refused):
        await PoolConfig(url="postgresql://u@127.0.0.1/d", application_name="t").connect("test")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_that_cannot_hold_any_text_is_refused(connection: Any, encoding: str) -> None:
    """A name that it cannot hold would be the job's fault, later."""
    name = f"odd_{encoding.lower()}"
    await connection.execute(
        f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        " LOCALE_PROVIDER 'libc'"
    )
    try:
        config = PoolConfig(url=(await dsn_of(connection)).replace("/DB?", f"/{name}?"), application_name="t")
        with pytest.raises(Refused, match=f"its encoding, {encoding}, cannot hold every text"):
            await check(config, writing=True)
    finally:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def dsn_of(connection: Any) -> str:
    """Return the URL of the test's server, with DB for a database."""
    directory = await connection.fetchval("SELECT current_setting('unix_socket_directories')")
    return f"postgresql://postgres@/DB?host={directory}&port={await connection.fetchval('SHOW port')}"


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DROP TABLE users CASCADE", "users"),
        ("DROP TABLE job_results CASCADE", "job_results, job_latency"),
        ("ALTER TABLE job_results DROP COLUMN args", "job_results.args"),
        ("ALTER TABLE pool_snapshots DROP COLUMN late; DROP TABLE orders", "orders, pool_snapshots.late"),
        ("DROP VIEW fleet_health", "fleet_health"),
    ],
)
async def test_what_was_dropped_is_named(empty_database: PoolConfig, statement: str, words: str) -> None:
    """Tables, views and columns: no migration makes them again, since it is applied, and every job would fail."""
    await app.migrations.migrate(empty_database)
    await check(empty_database, tables=True)
    other = await empty_database.connect("test")
    await other.execute(statement)
    await other.close()
    with pytest.raises(Refused, match=f"though its migrations are applied: {words}$"):
        await check(empty_database, tables=True)


async def test_a_database_without_tables_or_read_only_is_refused(empty_database: PoolConfig) -> None:
    """A program that needs neither may use it."""
    await check(empty_database)
    with pytest.raises(Refused, match="its tables are missing"):
        await check(empty_database, tables=True)
    other = await empty_database.connect("test")
    name = await other.fetchval("SELECT current_database()")
    await other.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await other.close()
    await check(empty_database)
    with pytest.raises(Refused, match="it is read-only"):
        await check(empty_database, writing=True)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("CREATE TABLE users (x int)", 'relation "users" already exists'),
        ("CREATE VIEW orders AS SELECT 1 AS id", 'relation "orders" already exists'),
        ("CREATE TABLE schema_migrations (version varchar)", 'column "checksum" does not exist'),
        ("CREATE TABLE schema_migrations (version bigint, dirty boolean)", 'column "checksum" does not exist'),
    ],
)
async def test_a_schema_of_somebody_elses_is_explained(empty_database: PoolConfig, statement: Any, said: str) -> None:
    """In the server's words, and with what to do."""
    other = await empty_database.connect("test")
    await other.execute(statement)
    await other.close()
    with pytest.raises((ServerError, Refused)) as met:
        await app.migrations.migrate(empty_database)
    assert said in words(met.value)
    assert "a database of its own" in words(met.value)
    assert isinstance(met.value.__cause__ or met.value, asyncpg.PostgresError)


@pytest.mark.parametrize(
    ("replies", "info", "said"),
    [
        ({}, INFO.replace("enabled:0", "enabled:1"), "Redis Cluster"),
        ({"PING": "-LOADING Redis is loading the dataset in memory"}, INFO, None),
        ({"PING": "-ERR max number of clients reached"}, INFO, None),
        ({}, INFO.replace("standalone", "sentinel"), "Sentinel"),
        ({}, INFO.replace("role:master", "role:slave\r\nslave_read_only:1"), "READONLY"),
        ({"PING": "-ERR unknown command 'PING'"}, INFO, "unknown command 'PING'"),
        ({"PING": "-NOPERM this user may not"}, INFO, "this user may not"),
        ({"SELECT": "-ERR DB index is out of range"}, INFO, "DB index is out of range"),
        ({"AUTH": "-WRONGPASS invalid username-password pair"}, INFO, "invalid username-password pair"),
        ({"PING": "-MOVED 1 10.0.0.1:6379"}, INFO, "MOVED"),
    ],
)
async def test_a_redis_that_cannot_serve_us_is_refused_at_once(
    logs: list[Any], replies: dict[str, str], info: str, said: str | None
) -> None:
    """And one that will be able to (*said* is None) is waited for, with its words in the log."""
    async with listening(redis_that_says(replies, info)) as port:
        url = f"redis://:hunter2@127.0.0.1:{port}/3"
        redis = RedisClient.open(url, queue_name="q")
        try:
            with pytest.raises(RedisRefused if said else RedisConnectionError) as met:
                await redis.wait_until_usable(url, patience_s=60 if said else 1.5)
        finally:
            await redis.aclose(close_connection_pool=True)
    assert (said or "") in str(met.value)
    assert (said is None) == (not isinstance(met.value, RedisRefused))
    assert ([] if said else ["server.waited_for"]) == [line["event"] for line in logs]
    assert "hunter2" not in f"{logs} {met.value}"


async def test_a_redis_that_drops_jobs_is_warned_of(logs: list[Any], redis: ArqRedis) -> None:
    """At every start, and in readiness, which it does not fail; a user without INFO is asked no more than PING."""
    evicting = INFO.replace("noeviction", "allkeys-lru")
    async with listening(redis_that_says({}, evicting)) as port:
        other = RedisClient.open(f"redis://127.0.0.1:{port}", queue_name="q")
        await other.wait_until_usable(f"redis://127.0.0.1:{port}")
        readiness = Readiness(other.ask, app.migrations)
        report = (await readiness.look()).document()["checks"]["redis"]
        await other.aclose(close_connection_pool=True)
    assert ["redis.may_drop_jobs"] == [line["event"] for line in logs]
    assert (True, "maxmemory-policy is allkeys-lru") == (report["ok"], report["warning"].partition(":")[0])
    assert "" == await redis.ask()

    async with listening(redis_that_says({"INFO": "-NOPERM no permissions to run the 'info' command"})) as port:
        other = RedisClient.open(f"redis://127.0.0.1:{port}", queue_name="q")
        assert "" == await other.ask()
        await other.wait_until_usable("redis://r", patience_s=1)
        await other.aclose(close_connection_pool=True)


async def test_readiness_of_a_database_without_tables_is_a_check(empty_database: PoolConfig) -> None:
    """Whatever PostgreSQL says, the look raises nothing."""
    pool = await Pool.open(empty_database)

    async def answers() -> None:
        """Be a Redis that is there."""

    readiness = Readiness(answers, app.migrations)
    readiness.watch(pool)
    report = await readiness.look()
    await pool.close()
    assert not report.ready
    assert "schema_migrations" in report.checks["postgresql"].reason


@pytest.mark.parametrize("kind", [AuthenticationError, RedisRefused])
def test_a_refused_connection_ends_a_start_only(kind: type[Exception]) -> None:
    """A running worker waits for the end of it, as when the server is away."""
    fault = RedisFault.of(kind())
    assert fault.is_outage
    assert fault.is_refusal
    assert not fault.is_passing


@pytest.mark.parametrize("kind", [NoPermissionError, AuthenticationWrongNumberOfArgsError])
def test_a_refused_command_ends_a_worker_too(kind: type[Exception]) -> None:
    """Redis would refuse it for ever."""
    fault = RedisFault.of(kind())
    assert fault.is_rejected_command
    assert fault.is_refusal
    assert fault.is_answer
    assert not fault.is_outage
    assert not fault.is_passing


def that_answers(reply: bytes) -> Answer:
    """Return a server that says *reply* to whatever it hears."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(reply)
        await writer.drain()

    return answer


@pytest.mark.parametrize(
    ("reply", "of_postgresql", "of_redis"),
    [
        (b"N", None, "speaks PostgreSQL, not Redis"),
        (b"-ERR wrong number of arguments", "speaks Redis, not PostgreSQL", None),
        (b"HTTP/1.1 400 Bad Request", "speaks HTTP, not PostgreSQL", "speaks HTTP, not Redis"),
        (b"", None, None),
    ],
)
async def test_another_server_at_the_address_is_found_out(
    reply: bytes, of_postgresql: str | None, of_redis: str | None
) -> None:
    """Waiting would go on for ever; one that closes without a word may be a proxy, and is waited for."""
    async with listening(that_answers(reply)) as port:
        for expected, said in (("PostgreSQL", of_postgresql), ("Redis", of_redis)):
            assert (said or "") in await other_than(expected, ("127.0.0.1", port))


async def test_a_wrong_url_of_a_running_server_is_refused(servers: Any) -> None:
    """Redis's URL names PostgreSQL, or a Redis without TLS."""
    database = servers.database_url("postgres")
    parsed = PostgresUrl.parse(database)
    url = f"unix://{parsed.hosts[0]}/.s.PGSQL.{(parsed.ports or (5432,))[0]}"
    redis = RedisClient.open(url, queue_name="q")
    try:
        with pytest.raises(RedisRefused, match="speaks PostgreSQL, not Redis"):
            await redis.wait_until_usable(url)
    finally:
        await redis.aclose(close_connection_pool=True)


async def test_a_database_url_that_names_a_redis_is_refused() -> None:
    """It hears PostgreSQL's first packet, and says nothing."""

    async def fail() -> None:
        raise Unavailable("TimeoutError")

    async with listening(that_answers(b"+PONG")) as port:
        config = PoolConfig(url=f"postgresql://u@127.0.0.1:{port}/d", application_name="t")
        with pytest.raises(Refused, match="speaks Redis, not PostgreSQL"):
            await config.until_available(fail, None)


def test_a_file_that_cannot_be_read_here_is_no_server_that_is_away() -> None:
    """An error of a file has its name; one of a socket has none."""
    assert isinstance(DatabaseFault.of(FileNotFoundError(2, "No such file", "/no/key.log")), Refused)
    assert isinstance(DatabaseFault.of(NotADirectoryError(20, "Not a directory")), Refused)
    assert isinstance(DatabaseFault.of(FileNotFoundError(2, "No such file")), Unavailable)
