"""The settings: what each is by default, and what is said about one that is wrong."""

import base64
import random
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from settings import Settings, SettingsError, load, without_password
from tidepool import settings

ROOT = Path(__file__).parents[2]
SERVERS = {"DATABASE_URL": "postgresql://ada:hunter2@db.example.org:5433/shop", "REDIS_URL": "redis://:hunter2@r:6379"}

DEFAULTS: dict[str, Any] = {
    "database_url": None,
    "db_host": None,
    "db_port": 5432,
    "db_name": "tidepool",
    "db_user": "tidepool",
    "db_password": None,
    "redis_url": None,
    "data_dir": Path(".data"),
    "pool_min_size": 1,
    "pool_max_size": 4,
    "pool_shares": {},
    "pool_max_queries": 50_000,
    "pool_max_inactive_time": 300.0,
    "acquire_timeout": 10.0,
    "command_timeout": 10.0,
    "connect_timeout": 5.0,
    "connection_margin": 5,
    "migrate_on_start": True,
    "work_password": None,
    "read_password": None,
    "queue_name": "arq:queue",
    "max_jobs": 2000,
    "max_held_bytes": 16_777_216,
    "max_tries": 5,
    "newer_job_wait": 600.0,
    "job_timeout": 10.0,
    "lease": 5.0,
    "batch_limit": 500,
    "poll_delay": 0.02,
    "keep_result": 3600.0,
    "shutdown_wait": 15,
    "metrics_port": None,
    "metrics_host": "127.0.0.1",
    "enable_monitoring": True,
    "stats_interval": 5.0,
    "snapshot_keep_days": 365.0,
    "result_keep_days": 30.0,
    "log_level": "INFO",
    "front_token": None,
    "front_rate_limit": 5000,
    "front_trusted_proxies": (),
    "simulation_concurrency": 4,
}


def test_the_defaults_are_pinned() -> None:
    """Whoever changes a default changes this table, and the README."""
    assert load({}).model_dump(exclude={"worker_name"}) == DEFAULTS


@pytest.mark.parametrize("length", [1, 31, 32, 39, 40])
def test_the_worker_is_named_after_its_host_by_default(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """By the whole name, up to the bound of a worker's name; longer ones end in a digest."""
    host = f"{'tidepool-worker-' * 3}"[: length - 1] + "7"
    monkeypatch.setattr(settings.socket, "gethostname", lambda: host)
    assert host == load({}).worker_name


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DB_PORT", "0"),
        ("DB_PORT", "65536"),
        ("DB_PORT", "five"),
        ("POOL_MIN_SIZE", "-1"),
        ("POOL_MAX_SIZE", "0"),
        ("POOL_MAX_SIZE", "1.5"),
        ("POOL_SHARES", "place_order"),
        ("POOL_SHARES", "place_order=1.1"),
        ("POOL_SHARES", "place_order=0"),
        ("POOL_SHARES", "place_order=0.5,place_order=1"),
        ("POOL_SHARES", "=0.5"),
        ("POOL_MAX_QUERIES", "0"),
        ("POOL_MAX_INACTIVE_TIME", "-1"),
        ("POOL_MAX_INACTIVE_TIME", "nan"),
        ("ACQUIRE_TIMEOUT", "0"),
        ("COMMAND_TIMEOUT", "0"),
        ("COMMAND_TIMEOUT", "3601"),
        ("CONNECT_TIMEOUT", "inf"),
        ("CONNECTION_MARGIN", "-1"),
        ("CONNECTION_MARGIN", "1001"),
        ("MIGRATE_ON_START", "perhaps"),
        ("WORK_PASSWORD", "gehéim"),
        ("READ_PASSWORD", "two\nlines"),
        ("MAX_JOBS", "0"),
        ("MAX_JOBS", "100001"),
        ("MAX_TRIES", "0"),
        ("JOB_TIMEOUT", "0.5"),
        ("LEASE", "0.5"),
        ("BATCH_LIMIT", "5001"),
        ("POLL_DELAY", "0"),
        ("KEEP_RESULT", "59"),
        ("SHUTDOWN_WAIT", "0"),
        ("WORKER_NAME", "two words"),
        ("WORKER_NAME", "x" * 41),
        ("ENABLE_MONITORING", "2"),
        ("STATS_INTERVAL", "0.01"),
        ("STATS_INTERVAL", "nan"),
        ("SNAPSHOT_KEEP_DAYS", "0"),
        ("RESULT_KEEP_DAYS", "1"),
        ("LOG_LEVEL", "LOUD"),
        ("FRONT_TOKEN", "fifteen_letters"),
        ("FRONT_TOKEN", "aaaaaaaaaaaaaaaa"),
        ("FRONT_TOKEN", "abababababababababab"),
        ("FRONT_TOKEN", "0123456789abcdefghijklmnop"),
        ("FRONT_TOKEN", "zyxwvutsrqponmlkjihg"),
        ("FRONT_TOKEN", "passwordpassword"),
        ("FRONT_TOKEN", "changemechangeme"),
        ("FRONT_TOKEN", "sesame open sesame"),
        ("FRONT_TOKEN", "sésame-ouvre-toi-donc"),
        ("FRONT_RATE_LIMIT", "-1"),
        ("FRONT_TRUSTED_PROXIES", "proxy.example"),
        ("FRONT_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("FRONT_TRUSTED_PROXIES", "10.0.0.1,"),
        ("SIMULATION_CONCURRENCY", "65"),
    ],
)
def test_a_bad_value_is_told_in_one_line_that_names_the_variable(variable: str, value: str) -> None:
    """One variable wrong: one line, beginning with its name."""
    with pytest.raises(SettingsError) as told:
        load({variable: value})
    assert [variable] == [line.split(":")[0] for line in str(told.value).splitlines()]


@pytest.mark.parametrize(
    "variable", ["KEEP_RESULT", "POOL_MAX_INACTIVE_TIME", "SNAPSHOT_KEEP_DAYS", "RESULT_KEEP_DAYS"]
)
def test_an_endless_duration_is_refused(variable: str) -> None:
    """The pruner and arq compute with these; infinity would end them with an OverflowError, long after the start."""
    with pytest.raises(SettingsError, match=variable):
        load({variable: "inf"})


def test_shares_of_the_pool_are_pairs() -> None:
    """A function's name and its part, as many as one likes."""
    text = "place_order=0.5, create_user=.25"
    assert {"place_order": 0.5, "create_user": 0.25} == load({"POOL_SHARES": text}).pool_shares


def test_all_wrong_variables_are_told_at_once() -> None:
    """Nobody wants to start a worker three times to learn of three mistakes."""
    with pytest.raises(SettingsError) as told:
        load({"MAX_JOBS": "0", "DB_PORT": "x", "POLL_DELAY": "-1"})
    assert {"MAX_JOBS", "DB_PORT", "POLL_DELAY"} == {line.split(":")[0] for line in str(told.value).splitlines()}


def test_the_least_size_of_the_pool_may_not_exceed_the_greatest() -> None:
    """The line names both."""
    with pytest.raises(SettingsError, match=r"^POOL_MIN_SIZE: is 9, more than POOL_MAX_SIZE, 2$"):
        load({"POOL_MIN_SIZE": "9", "POOL_MAX_SIZE": "2"})


def test_an_empty_variable_counts_as_absent() -> None:
    """Compose files pass unset variables on as empty ones."""
    assert load({}).model_dump() == load({"DATABASE_URL": "", "MAX_JOBS": "", "DB_HOST": ""}).model_dump()


def test_unknown_variables_are_left_alone() -> None:
    """The environment has many owners."""
    assert load({}).model_dump() == load({"PATH": "/bin", "DB_HOSTS": "x"}).model_dump()


def test_the_process_environment_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are in capitals there."""
    monkeypatch.setenv("MAX_JOBS", "77")
    assert 77 == load().max_jobs


def test_wrong_settings_end_the_process_with_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line on standard error and no traceback."""
    monkeypatch.setenv("MAX_JOBS", "none")
    with pytest.raises(SystemExit) as exit_info:
        Settings.load_or_exit()
    assert 2 == exit_info.value.code
    assert capsys.readouterr().err.startswith("MAX_JOBS: ")


def test_settings_do_not_change() -> None:
    """They were checked as a whole."""
    with pytest.raises(ValueError, match="frozen"):
        load({}).max_jobs = 5  # pyright: ignore[reportAttributeAccessIssue]


def test_secrets_are_in_no_repr() -> None:
    """A log line or traceback may hold the settings."""
    loaded = load({**SERVERS, "DB_PASSWORD": "hunter2"})
    assert "hunter2" not in f"{loaded!r} {loaded} {loaded.database!r} {loaded.model_dump()}"


@pytest.mark.parametrize(
    "environment",
    [
        {"DATABASE_URL": "mysql://ada:hunter2@h/d", "REDIS_URL": "redis://r"},
        {"DATABASE_URL": "postgresql://ada:hunter2@h:port/d", "REDIS_URL": "redis://r"},
        {"DATABASE_URL": "postgresql://ada:hunter2@[h/d", "REDIS_URL": "redis://r"},
        {"DATABASE_URL": "postgresql://ada:hunter2@h/d"},
        {"REDIS_URL": "redis://:hunter2@r"},
        {"REDIS_URL": "http://:hunter2@r", "DB_HOST": "h"},
    ],
)
def test_secrets_are_in_no_error(environment: dict[str, str]) -> None:
    """The line names the variable and never its value."""
    with pytest.raises(SettingsError) as told:
        load(environment)
    assert "hunter2" not in f"{told.value!s} {told.value!r}"
    assert str(told.value).startswith(("DATABASE_URL: ", "REDIS_URL: "))


@pytest.mark.parametrize(
    ("variable", "url", "parameter"),
    [
        ("DATABASE_URL", "postgresql://ada:hunter2@h/d?sslmode=verify-full&sslrootcert=/no/ca.pem", "sslrootcert"),
        ("REDIS_URL", "rediss://:hunter2@r/0?ssl_ca_certs=/no/ca.pem", "ssl_ca_certs"),
    ],
)
def test_certificates_that_are_not_there_are_told_at_the_start(variable: str, url: str, parameter: str) -> None:
    """The drivers would say "no such file", as of a server's socket, which is waited for."""
    with pytest.raises(SettingsError, match=f"^{variable}: {parameter} is no file: /no/ca.pem$"):
        load({**SERVERS, variable: url})


def test_certificates_that_are_there_are_taken() -> None:
    """Any file will do: whether it has certificates is seen when it is used."""
    url = f"rediss://r/0?ssl_ca_certs={__file__}"
    assert url == load({**SERVERS, "REDIS_URL": url}).redis_url.get_secret_value()  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize("password", ["p@ss", "a/b:c", "sp ace", "%41", "ü€", "#?&=", "'\"\\", "[x]"])
def test_an_awkward_password_survives_the_composition(password: str) -> None:
    """What asyncpg reads from the URL is what was given."""
    loaded = load(
        {"DB_HOST": "h", "DB_USER": "us@er", "DB_NAME": "na/me", "DB_PASSWORD": password, "REDIS_URL": "redis://r"}
    )
    assert loaded.database is not None
    parts = urlsplit(loaded.database.get_secret_value())
    assert (password, "us@er", "na/me") == (
        unquote(parts.password or ""),
        unquote(parts.username or ""),
        unquote(parts.path[1:]),
    )
    assert ("h", 5432) == (parts.hostname, parts.port)


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({"DB_HOST": "h"}, "postgresql://tidepool@h:5432/tidepool"),
        ({"DB_HOST": "::1", "DB_PORT": "5433"}, "postgresql://tidepool@[::1]:5433/tidepool"),
        ({"DB_HOST": "h", "DATABASE_URL": "postgres://x/y"}, "postgres://x/y"),
    ],
)
def test_the_database_url_is_composed_unless_given(environment: dict[str, str], url: str) -> None:
    """DATABASE_URL wins; an IPv6 address gets its brackets."""
    database = load({**environment, "REDIS_URL": "redis://r"}).database
    assert database is not None
    assert url == database.get_secret_value()


def test_the_host_may_be_the_directory_of_a_socket() -> None:
    """As in libpq; asyncpg reads a quoted host as such."""
    database = load({"DB_HOST": "/var/run/postgresql", "REDIS_URL": "redis://r"}).database
    assert database is not None
    assert "%2Fvar%2Frun%2Fpostgresql" in database.get_secret_value()


def test_several_hosts_may_be_named() -> None:
    """A standby takes over without a new configuration: asyncpg tries the hosts in turn."""
    url = "postgresql://ada:hunter2@h1:5432,h2:5433/shop"
    database = load({**SERVERS, "DATABASE_URL": url}).database
    assert database is not None
    assert "postgresql://ada@h1:5432,h2:5433/shop" == without_password(url)


@pytest.mark.parametrize(
    ("environment", "missing"),
    [
        ({"DB_HOST": "h"}, "REDIS_URL"),
        ({"DATABASE_URL": "postgresql://h/d"}, "REDIS_URL"),
        ({"REDIS_URL": "redis://r"}, "DATABASE_URL"),
    ],
)
def test_both_servers_are_named_or_neither(environment: dict[str, str], missing: str) -> None:
    """Half an embedded service would be a surprise."""
    with pytest.raises(SettingsError, match=f"^{missing}: is not set"):
        load(environment)


def test_neither_server_named_means_embedded() -> None:
    """And both named means not."""
    assert load({}).embedded
    assert not load(SERVERS).embedded


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ada:hunter2@h:5432/shop", "postgresql://ada@h:5432/shop"),
        ("postgresql://ada@h/shop?password=hunter2&host=/run&x=hunter2", "postgresql://ada@h/shop?host=/run"),
        ("redis://:hunter2@r:6379/0", "redis://r:6379/0"),
        ("unix:///run/redis.sock?password=hunter2&db=3", "unix:///run/redis.sock?db=3"),
        ("postgresql://ada:hunter2@[::1]:5432/shop", "postgresql://ada@[::1]:5432/shop"),
        ("postgresql://h/shop#hunter2", "postgresql://h/shop"),
    ],
)
def test_a_url_is_logged_without_its_password(url: str, shown: str) -> None:
    """Nor anything of its query but where the server is."""
    assert shown == without_password(url)


def test_every_setting_has_a_description() -> None:
    """The README's table and the errors assume that the fields speak for themselves."""
    source = "".join((ROOT / path).read_text("utf-8") for path in ("settings.py", "tidepool/settings.py"))
    assert [] == [name for name in Settings.model_fields if f"    {name}: " not in source]


def test_a_random_token_is_strong() -> None:
    """As `openssl rand -hex 24` and `-base64 18` print it; none of hundreds is refused."""
    for number in range(300):
        dice = random.Random(number)
        assert load({"FRONT_TOKEN": dice.randbytes(24).hex()}).front_token
        assert load({"FRONT_TOKEN": base64.b64encode(dice.randbytes(18)).decode()}).front_token


def test_a_weak_token_is_not_shown() -> None:
    """The line says how to make a better one."""
    with pytest.raises(SettingsError) as told:
        load({"FRONT_TOKEN": "hunter2hunter2hunter2"})
    assert "FRONT_TOKEN: is too easy to guess; take what `openssl rand -hex 24` prints" == str(told.value)


def test_trusted_proxies_are_addresses_and_networks() -> None:
    """An address is a network of one."""
    proxies = load({"FRONT_TRUSTED_PROXIES": "10.0.0.7, fd00::/8,192.168.4.0/24"}).front_trusted_proxies
    assert ["10.0.0.7/32", "fd00::/8", "192.168.4.0/24"] == [str(proxy) for proxy in proxies]


@pytest.mark.parametrize(
    "variable", ["QUEUE_NAME", "FRONT_TOKEN", "WORKER_NAME", "METRICS_HOST", "DB_NAME", "DB_PASSWORD"]
)
def test_text_is_trimmed_and_control_characters_are_refused(variable: str) -> None:
    """As .env files with Windows line ends leave it; a value of blanks counts as absent."""
    value = "a-name-of-16-chars"
    read = getattr(load({variable: f" {value}\r\n"}), variable.lower())
    assert value == (read if isinstance(read, str) else read.get_secret_value())
    assert load({}).model_dump() == load({variable: " \r"}).model_dump()
    for odd in ("\r", "\x1b", "\udcff"):
        with pytest.raises(SettingsError, match=f"^{variable}: has a control character"):
            load({variable: f"a-name{odd}of-16-chars"})


@pytest.mark.parametrize("quote", ['"', "'", "`"])
def test_a_value_in_quotes_is_refused(quote: str) -> None:
    """Docker's `--env-file` leaves the quotes of a .env file; a queue of that name has jobs that nobody takes."""
    with pytest.raises(SettingsError, match=r"^QUEUE_NAME: is in quotes, .*: write it without them$"):
        load({"QUEUE_NAME": f"{quote}arq:queue{quote}"})
    assert f"{quote}a" == load({"QUEUE_NAME": f"{quote}a"}).queue_name


def test_a_queues_name_has_up_to_512_characters() -> None:
    """It is a part of every key and of every advice to the operator."""
    assert 512 == len(load({"QUEUE_NAME": "q" * 512}).queue_name)
    with pytest.raises(SettingsError, match=r"^QUEUE_NAME: .*512 characters"):
        load({"QUEUE_NAME": "q" * 513})


def test_a_token_that_no_caller_could_send_is_refused() -> None:
    """A header has no blanks in a token, and no other letters than ASCII's."""
    for token in ("sixteen letters or so", "sixteen-létters-or-so"):
        with pytest.raises(SettingsError, match=r"^FRONT_TOKEN: "):
            load({"FRONT_TOKEN": token})


def test_hosts_of_long_names_have_different_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pods of one deployment differ at the end of their names only."""
    names = set[str]()
    for pod in ("a", "b"):
        monkeypatch.setattr(settings.socket, "gethostname", lambda pod=pod: f"{'tidepool-worker-' * 4}{pod}")
        names.add(load({}).worker_name)
    assert [40, 40] == [len(name) for name in names]


def test_a_home_directory_is_written_with_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files and .env files have no shell that would expand it."""
    monkeypatch.setenv("HOME", "/home/ada")
    assert Path("/home/ada/x") == load({"DATA_DIR": "~/x"}).data_dir
    with pytest.raises(SettingsError, match=r"^DATA_DIR: begins with ~"):
        load({"DATA_DIR": "~nobody-of-this-name/x"})


def test_a_user_without_a_name_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as any number."""

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(settings.getpass, "getuser", nameless)
    with pytest.raises(SettingsError, match=r"^DATABASE_URL: names no user"):
        load({"DATABASE_URL": "postgresql://h/d", "REDIS_URL": "redis://r"})
    assert load({"DATABASE_URL": "postgresql://h/d", "REDIS_URL": "redis://r", "PGUSER": "ada"})


def test_files_and_ports_of_libpqs_variables_are_checked() -> None:
    """The driver reads them, and would take a file that is not there for a server that is away."""
    for variable, value in (("PGSSLROOTCERT", "/no/ca.pem"), ("PGPORT", "abc")):
        with pytest.raises(SettingsError, match=f"^{variable}: "):
            load({**SERVERS, variable: value})
