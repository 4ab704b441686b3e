"""The configuration of a process, read from the environment once, at the start.

An application adds its own settings in a subclass of `Settings`. Other modules do not read the environment. Each field
is the environment variable of the same name in capitals; its description gives meaning, unit, special values and
default. `Settings.load` either returns settings that were checked as a whole or raises `SettingsError`, whose text has
one line for each variable that is wrong. Secrets are `SecretStr`: no repr, log line or error shows them.
"""

import hashlib
import os
import pwd
import socket
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self, TypeAlias
from urllib.parse import quote

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticUseDefault
from pydantic_settings import BaseSettings, SettingsConfigDict

from tidepool import identifiers
from tidepool.embedded import Urls
from tidepool.libpq import LibpqVariables
from tidepool.pool.config import PoolConfig
from tidepool.setting_types import Directory, Networks, Password, Shares, Token
from tidepool.urls import PostgresUrl, RedisUrl, UrlError

__all__ = ["Settings", "SettingsError"]

ServerVariable: TypeAlias = Literal["database_url", "redis_url"]
"""A server that a command uses, by the name of its setting."""
SERVERS: tuple[ServerVariable, ...] = ("database_url", "redis_url")
_WORKER_NAME_LENGTH = 40
_DIGEST_LENGTH = 8


class SettingsError(Exception):
    """The configuration in the environment is not valid; the text has one line for each variable that is wrong."""


class Settings(BaseSettings):
    """All settings of Tidepool, each with unit, default and bounds. Immutable; made by `load`."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, env_ignore_empty=True)

    workers_abort_jobs: ClassVar[bool] = True
    """Whether the workers abort a job when a client asks for that, which arq's settings may turn off."""

    # Where the servers are. Neither PostgreSQL nor Redis named: embedded servers under DATA_DIR.
    database_url: SecretStr | None = None
    """PostgreSQL as `postgresql://user:password@host:port/name`, with `?sslmode=verify-full&sslrootcert=/path/ca.pem`
    for TLS. Wins over the DB_* variables. `docs/operations.md` has the parameters."""
    db_host: str | None = None
    """Host of PostgreSQL; used if DATABASE_URL is not set."""
    db_port: Annotated[int, Field(ge=1, le=65535)] = 5432
    """Port of PostgreSQL. Default 5432."""
    db_name: str = "tidepool"
    """Name of the database in PostgreSQL. Default tidepool."""
    db_user: str = "tidepool"
    """Role to log in to PostgreSQL as. Default tidepool."""
    db_password: SecretStr | None = None
    """Password of the role DB_USER. Default none."""
    db_schema: str = "tidepool"
    """Schema of the library's own tables in the database; an application's tables are wherever it puts them. All
    processes of an application need the same. Default tidepool."""
    redis_url: SecretStr | None = None
    """Redis as `redis://user:password@host:port/0`, as `rediss://` for TLS (with `?ssl_ca_certs=/path/ca.pem` for a
    private CA), or as `unix:///path/of/the.sock?db=0` for a Unix socket. The number is that of the Redis database."""
    data_dir: Directory = Path(".data")
    """Directory of the embedded servers' data; `~/` is the home directory. Default .data."""

    # The connection pool of one process.
    pool_min_size: Annotated[int, Field(ge=0, le=1000)] = 1
    """Connections that are opened at the start. One of them stays open; the others are closed when they have been idle
    for POOL_MAX_INACTIVE_TIME. Default 1."""
    pool_max_size: Annotated[int, Field(ge=1, le=1000)] = 4
    """Max connections of the pool, and so max batches that are committed at a time. The limit is lower while this
    process's share of the server's connections is lower. Default 4: fewer connections make larger batches, and on small
    machines larger batches are faster."""
    pool_shares: Shares = Field(default_factory=dict)
    """Max shares of the connections that the jobs of single functions may use at a time, such as
    `place_order=0.5,create_user=0.25`. This is a bulkhead: functions with long transactions leave connections for the
    others. Default none."""
    pool_max_queries: Annotated[int, Field(ge=1)] = 50_000
    """Number of queries after which a connection is closed and replaced by a new one. Default 50,000."""
    pool_max_inactive_time: Annotated[float, Field(ge=0, le=86_400)] = 300.0
    """Seconds after which an idle connection is closed; 0 = never. Default 300."""
    acquire_timeout: Annotated[float, Field(ge=0.001, le=3600)] = 10.0
    """Max seconds to wait for a free connection of the pool. Default 10."""
    command_timeout: Annotated[float, Field(ge=0.01, le=3600)] = 10.0
    """Max seconds that one SQL statement may take, enforced by the client and by the server (statement_timeout).
    Default 10."""
    connect_timeout: Annotated[float, Field(ge=0.01, le=300)] = 5.0
    """Seconds to wait for a new connection to PostgreSQL or Redis. Default 5."""
    connection_margin: Annotated[int, Field(ge=0, le=1000)] = 5
    """Connections of the PostgreSQL server that all workers together leave free, besides those that other programs
    have: for a psql session, and for programs that connect between two checks of the server. Default 5."""
    migrate_on_start: bool = True
    """Whether a worker applies missing schema migrations when it starts; if not, run `python -m worker migrate`.
    Default true."""

    db_role_prefix: Annotated[str, Field(max_length=identifiers.MAX_BYTES - len("_work"))] = "tidepool"
    """Beginning of the names of the PostgreSQL roles that `migrate --roles` creates: tidepool_work for workers, and
    tidepool_read for reports. Default tidepool."""
    work_password: Password | None = None
    """Password that `migrate --roles` gives the role for workers. Default none: it keeps its own."""
    read_password: Password | None = None
    """Password that `migrate --roles` gives the role for reports. Default none: it keeps its own."""

    # Jobs.
    queue_name: Annotated[str, Field(min_length=1, max_length=512)] = "arq:queue"
    """The queue's key in Redis. Default arq:queue, as in arq."""
    max_jobs: Annotated[int, Field(ge=1, le=100_000)] = 2000
    """Max jobs that a process works on at a time, those that wait for their batch included. Default 2,000."""
    max_held_bytes: Annotated[int, Field(ge=1_048_576, le=2**40)] = 16_777_216
    """Max bytes of job content that a process holds at a time: once its jobs have that many, it claims no more. Jobs
    of 4 KiB or less are not counted, since MAX_JOBS bounds them. The memory used is up to eight times as much.
    Default 16,777,216."""
    max_tries: Annotated[int, Field(ge=1, le=100)] = 5
    """Max attempts at a job; after the last one it is failed, or rejected for an unknown reference. Default 5."""
    newer_job_wait: Annotated[float, Field(ge=0, le=86_400)] = 600.0
    """Seconds for which a worker leaves a job to workers of a newer version, if it does not know the job's function, or
    if unknown fields are the job's only fault. Then it rejects the job as invalid; 0: at once. Default 600."""
    job_timeout: Annotated[float, Field(ge=1, le=86_400)] = 10.0
    """Max seconds for which a handler may work on one batch before it counts as hung. JOB_TIMEOUT and COMMAND_TIMEOUT
    together limit a transaction, and so how long a worker that stalls during one holds its locks. Default 10."""
    lease: Annotated[float, Field(ge=1, le=3600)] = 5.0
    """Seconds after which other workers run the jobs of a worker that died or is unreachable. A worker or Redis that
    stalls for less than three quarters of it loses no jobs. Default 5."""
    batch_limit: Annotated[int, Field(ge=1, le=5000)] = 500
    """Max jobs in one batch, that is in one transaction. Default 500."""
    poll_delay: Annotated[float, Field(gt=0, le=60)] = 0.02
    """Seconds between two polls of an empty queue. Used only if Redis cannot notify workers, as behind a proxy.
    Default 0.02."""
    keep_result: Annotated[float, Field(ge=60, le=31_536_000)] = 3600.0
    """Seconds for which Redis keeps a job's result for `Job.result()`. The ledger keeps it for RESULT_KEEP_DAYS.
    Default 3,600."""
    shutdown_wait: Annotated[int, Field(ge=1, le=3600)] = 15
    """Seconds for which a worker that is stopped waits for its running jobs to end. Default 15."""

    # Watching.
    worker_name: Annotated[str, Field(min_length=1, max_length=_WORKER_NAME_LENGTH, pattern=r"^[\x21-\x7e]+$")] = Field(
        default_factory=lambda: _worker_name(socket.gethostname())
    )
    """Name of a worker, by which `arq --check` checks its health; each worker of one host needs its own. Default the
    host's name; if it is longer than 40 characters, the first 31 and a digest of all of it."""
    metrics_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Port on which a worker serves `/health/live`, `/health/ready` and `/metrics` over HTTP; each worker of one host
    needs its own. Default none: nothing is served."""
    metrics_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address that METRICS_PORT listens on; `0.0.0.0` for a Prometheus on another machine. Default 127.0.0.1."""
    enable_monitoring: bool = True
    """Write pool snapshots, periodic records of the pool's figures, to PostgreSQL. Default true."""
    stats_interval: Annotated[float, Field(ge=0.1, le=3600)] = 5.0
    """Seconds between two pool snapshots, which are taken at multiples of it by PostgreSQL's clock. Default 5."""
    snapshot_keep_days: Annotated[float, Field(gt=0, le=36_500)] = 365.0
    """Days after which pool snapshots are deleted. Those older than one day are thinned to one a minute, those older
    than seven days to one an hour. Default 365."""
    result_keep_days: Annotated[float, Field(ge=2, le=36_500)] = 30.0
    """Days after which rows of the ledger, the table of jobs' outcomes, are deleted. Min 2: Redis may deliver a job
    again for a day, and only its ledger row keeps it from being applied twice. Default 30."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Lowest level of the log lines that are written. Default INFO."""

    # The HTTP front.
    front_token: Token | None = None
    """Token that callers of the HTTP front (the API and the operators' page) must present: 16 characters or more, hard
    to guess (`openssl rand -hex 24`). It is sent as `Authorization: Bearer`, or entered to sign in with a browser.
    Without a token the front listens on loopback addresses only. Default none."""
    front_rate_limit: Annotated[int, Field(ge=0, le=1_000_000)] = 5000
    """Max requests a second that the HTTP front accepts from one IPv4 address or IPv6 /64 network; 0 = no limit.
    Requests with and without the token are counted separately. Default 5,000."""
    front_trusted_proxies: Networks = ()
    """Addresses and networks of proxies whose X-Forwarded-For and X-Forwarded-Proto headers the HTTP front trusts, such
    as `10.0.0.7,fd00::/8`. Default none: these headers are ignored."""

    @field_validator("*", mode="before")
    @classmethod
    def _trimmed(cls, value: object) -> object:
        """Strip blanks and line ends, which `.env` files may leave; a value that is empty then counts as not set.

        Raises `ValueError` for a value in quotes or with control characters.
        """
        if not isinstance(value, str):
            return value
        trimmed = value.strip()
        if not trimmed:
            raise PydanticUseDefault
        if not trimmed.isprintable():
            raise ValueError("has a control character, or bytes that are not UTF-8")
        if trimmed[0] in "\"'`" and trimmed[0] == trimmed[-1] and len(trimmed) > 1:
            raise ValueError("is in quotes, which some readers of .env files do not remove: write it without quotes")
        return trimmed

    @field_validator("db_schema", "db_role_prefix")
    @classmethod
    def _names(cls, value: str) -> str:
        """Check a name of PostgreSQL's; also that of a subclass, which may declare the field with another default."""
        return identifiers.check(value)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.pool_min_size > self.pool_max_size:
            raise ValueError(f"POOL_MIN_SIZE: is {self.pool_min_size}, more than POOL_MAX_SIZE ({self.pool_max_size})")
        self._require_both_servers()
        self._check_urls()
        return self

    def _require_both_servers(self) -> None:
        if self.database is None and self.redis_url is not None:
            raise ValueError("DATABASE_URL: is not set, but REDIS_URL is: set both, or neither for embedded servers")
        if self.database is not None and self.redis_url is None:
            raise ValueError("REDIS_URL: is not set, but PostgreSQL is: set both, or neither for embedded servers")

    def _check_urls(self) -> None:
        """Raise `ValueError`, which names the variable, if the URL of PostgreSQL or Redis is not valid."""
        database = "DATABASE_URL" if self.database_url is not None else "DB_HOST"
        for variable, url, kind in ((database, self.database, PostgresUrl), ("REDIS_URL", self.redis_url, RedisUrl)):
            try:
                if url is not None:
                    kind.parse(url.get_secret_value())
            except UrlError as error:
                raise ValueError(f"{variable}: {error}") from None

    @property
    def database(self) -> SecretStr | None:
        """The URL of PostgreSQL: DATABASE_URL, or one built from the DB_* variables; None for the embedded server."""
        if self.database_url is not None or self.db_host is None:
            return self.database_url
        password = f":{quote(self.db_password.get_secret_value(), safe='')}" if self.db_password else ""
        host = f"[{self.db_host}]" if ":" in self.db_host else quote(self.db_host, safe="")
        user, name = quote(self.db_user, safe=""), quote(self.db_name, safe="")
        return SecretStr(f"postgresql://{user}{password}@{host}:{self.db_port}/{name}")

    @property
    def embedded(self) -> bool:
        """Whether this process uses the embedded servers, which it starts itself, because no others are named."""
        return self.database is None

    @property
    def urls(self) -> Urls:
        """The URLs of PostgreSQL and Redis; those of embedded servers are valid once these servers run."""
        database, redis = self.database, self.redis_url
        if database is None or redis is None:
            return Urls.embedded(self.data_dir)
        return Urls(database=database.get_secret_value(), redis=redis.get_secret_value())

    def variables_of_worker(self, number: int) -> dict[str, str]:
        """Return the environment variables that worker *number* of several on one host needs, counted from 0.

        The first needs none. Each other one has a name and a METRICS_PORT of its own: WORKER_NAME-2 and the next port
        for the second worker, and so on.
        """
        if number == 0:
            return {}
        port = {} if self.metrics_port is None else {"METRICS_PORT": str(self.metrics_port + number)}
        return {"WORKER_NAME": _worker_name(f"{self.worker_name}-{number + 1}"), **port}

    @classmethod
    def variable(cls, name: str) -> str:
        """Return the environment variable of the field *name*."""
        return f"{cls.model_config.get('env_prefix', '')}{name.upper()}"

    def pool_config(self, url: str, application_name: str) -> PoolConfig:
        """Return the configuration of a connection pool for PostgreSQL at *url*, with the sizes and limits of settings.

        *application_name* names the pool's connections in PostgreSQL.
        """
        return PoolConfig(
            url=url,
            application_name=application_name,
            schema=self.db_schema,
            min_size=self.pool_min_size,
            max_size=self.pool_max_size,
            max_queries=self.pool_max_queries,
            max_inactive_time_s=self.pool_max_inactive_time,
            acquire_timeout_s=self.acquire_timeout,
            command_timeout_s=self.command_timeout,
            connect_timeout_s=self.connect_timeout,
            transaction_timeout_s=self.job_timeout + self.command_timeout,
        )

    def require_servers(self, needed: Collection[ServerVariable]) -> None:
        """Do nothing: a command can use both servers, since those that are not named are embedded."""

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read, check and return the settings. Raises `SettingsError` if they are not valid.

        *environment* replaces the process's own, for tests.
        """
        try:
            settings = cls() if environment is None else cls._of_mapping(environment)
        except ValidationError as error:
            prefix = cls.model_config.get("env_prefix", "")
            lines = (prefix + _line(detail) for detail in error.errors(include_input=False))
            raise SettingsError("\n".join(lines)) from None
        if settings.database is not None:
            try:
                variables = LibpqVariables(dict(os.environ if environment is None else environment))
                variables.check(settings.database.get_secret_value())
            except UrlError as error:
                raise SettingsError(str(error)) from None
        return settings

    @classmethod
    def load_or_exit(cls) -> Self:
        """Read, check and return the settings; if they are not valid, print why to standard error and exit (status 2).

        Also changes HOME, USER and empty libpq variables of this process if asyncpg would fail over them.
        """
        _name_user_and_home()
        LibpqVariables(os.environ).drop_empty()
        try:
            return cls.load()
        except SettingsError as error:
            print(error, file=sys.stderr)  # noqa: T201  (the start of every command)
            raise SystemExit(2) from None

    @staticmethod
    def child_environment(**variables: str) -> dict[str, str]:
        """Return a copy of this process's environment for a child process, with *variables* added or replaced."""
        return {**os.environ, **variables}

    @staticmethod
    def app_in_environment() -> str | None:
        """Return the value of TIDEPOOL_APP: where the application is, as `package.module:attribute`; None if not set.

        It is not a field, because the application that it names defines the fields.
        """
        return os.environ.get("TIDEPOOL_APP", "").strip() or None

    @classmethod
    def _of_mapping(cls, environment: Mapping[str, str]) -> Self:
        known = {name.lower(): value for name, value in environment.items() if value}
        return cls.model_validate({k: v for k, v in known.items() if k in cls.model_fields})


def _name_user_and_home() -> None:
    """Set HOME and USER if asyncpg would fail over them, as for a user id that has no passwd entry.

    asyncpg looks for files in HOME, and reports a HOME that it may not enter as a lost server. If a URL names no user,
    it asks for the name of the process's user; a user without a name gets the numeric id as USER.
    """
    home = os.path.expanduser("~")  # noqa: PTH111  (as it is where there is none)
    if not os.access(home, os.X_OK):
        os.environ["HOME"] = "/nonexistent"
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("USER", str(os.getuid()))


def _line(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        return message
    return f"{str(detail['loc'][0]).upper()}: {message[0].lower()}{message[1:]}"


def _worker_name(name: str) -> str:
    """Return *name*; if it is too long, its beginning and a digest of all of it, so that it stays unique."""
    if len(name) <= _WORKER_NAME_LENGTH:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGEST_LENGTH]
    return f"{name[: _WORKER_NAME_LENGTH - _DIGEST_LENGTH - 1]}-{digest}"
