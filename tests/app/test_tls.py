"""TLS to both servers: certificate and host name are checked, by every process of the service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme
from commands import Ended, Service, stop
from proxies import tls_postgres, tls_redis

from tidepool.pool.config import PoolConfig

PASSWORD = "geheim"


@dataclass(frozen=True)
class Secured:
    """Both servers behind TLS."""

    database: str
    """With its CA, which is the right one."""
    redis: str
    """The same."""
    other_ca: Path
    plain_database: str
    """PostgreSQL without TLS, of which TLS is asked."""

    def elsewhere(self, url: str) -> str:
        """Return *url* by a name that is not in the certificate."""
        return url.replace("@localhost", "@127.0.0.1")

    def distrusted(self, url: str) -> str:
        """Return *url* with the other CA."""
        return f"{url.rpartition('=')[0]}={self.other_ca}"


def context_for(certificate: trustme.LeafCert) -> SSLContext:
    """Return what a server shows *certificate* with."""
    context = SSLContext(PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


@pytest.fixture
async def secured(database: PoolConfig, redis_url: str, tmp_path: Path) -> AsyncIterator[Secured]:
    """Give the test's servers over TLS, called localhost in their certificate."""
    ca, other_ca = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    other_ca.cert_pem.write_to_path(str(tmp_path / "other-ca.pem"))
    context = context_for(ca.issue_cert("localhost"))
    postgres, redis = urlsplit(database.url), urlsplit(redis_url)
    socket = f"{parse_qs(postgres.query)['host'][0]}/.s.PGSQL.5432"
    async with AsyncExitStack() as stack:
        secure_port = await stack.enter_async_context(tls_postgres(socket, context))
        plain_port = await stack.enter_async_context(tls_postgres(socket, None))
        redis_port = await stack.enter_async_context(tls_redis(redis.path, context))
        database_url = (
            f"postgresql://postgres:{PASSWORD}@localhost:%d{postgres.path}?sslmode=verify-full&sslrootcert=%s"
        )
        yield Secured(
            database=database_url % (secure_port, tmp_path / "ca.pem"),
            redis=f"rediss://default:{PASSWORD}@localhost:{redis_port}/{parse_qs(redis.query)['db'][0]}"
            f"?ssl_ca_certs={tmp_path / 'ca.pem'}",
            other_ca=tmp_path / "other-ca.pem",
            plain_database=database_url % (plain_port, tmp_path / "ca.pem"),
        )


@pytest.mark.slow
async def test_workers_producers_and_checks_work_over_tls(service: Service, secured: Secured) -> None:
    """With one variable each. A password would be asked for by a Redis that has one; this one has none."""
    urls = {"DATABASE_URL": secured.database, "REDIS_URL": secured.redis.replace(f"default:{PASSWORD}", "")}
    worker = await asyncio.to_thread(service.start_worker, WORKER_NAME="secured", **urls)

    ran = await run(service, "producer", "--jobs", "300", "--follow", "--json", **urls)
    checked = await run(service, "arq", "worker.WorkerSettings", "--check", WORKER_NAME="secured", **urls)
    status, log = await asyncio.to_thread(stop, worker)

    assert (0, 300) == (ran.status, ran.document["enqueued"]), ran.stderr
    assert (0, 0) == (checked.status, status), checked.stderr
    assert PASSWORD not in log


@pytest.mark.parametrize(
    ("words", "server", "fault"),
    [
        (("arq", "worker.WorkerSettings"), "database", "elsewhere"),
        (("arq", "worker.WorkerSettings"), "redis", "distrusted"),
        (("producer", "--jobs", "1"), "database", "distrusted"),
        (("producer", "--jobs", "1"), "redis", "elsewhere"),
    ],
)
async def test_a_server_that_is_not_who_it_says_is_refused_at_once(
    service: Service, secured: Secured, words: tuple[str, ...], server: str, fault: str
) -> None:
    """The wrong name or CA: one line that says which server and why, status 2, and no password in it."""
    url = getattr(secured, fault)(getattr(secured, server))

    ended = await run(service, *words, **{f"{server.upper()}_URL": url})

    line = ended.stderr.splitlines()[-1]
    assert 2 == ended.status, ended.stderr
    assert line.startswith(f"error: {'PostgreSQL' if server == 'database' else 'Redis'} at ")
    assert "its certificate is not trusted: " in line
    assert ("127.0.0.1" in line) == (fault == "elsewhere")
    assert not any(word in ended.stderr for word in (PASSWORD, "Traceback", "waited_for"))


async def test_a_server_without_tls_is_refused_where_tls_is_asked_for(service: Service, secured: Secured) -> None:
    """Nothing falls back to plain text, where a password could be read on the way."""
    ended = await run(service, "worker", "migrate", DATABASE_URL=secured.plain_database)

    assert 2 == ended.status
    assert "rejected SSL upgrade" in ended.stderr
    assert 1 == len(ended.stderr.splitlines())
    assert PASSWORD not in ended.stderr


async def run(service: Service, *words: str, **variables: str) -> Ended:
    """Run a command while the proxies go on serving."""
    return await asyncio.to_thread(service.run, *words, **variables)
