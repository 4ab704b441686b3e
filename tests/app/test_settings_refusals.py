"""Settings that are refused, and the line that says so."""

import pytest
from factories import SERVERS

from settings import Settings, SettingsError, load
from tidepool import libpq


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DB_PORT", "0"),
        ("DB_PORT", "65536"),
        ("DB_PORT", "five"),
        ("DB_SCHEMA", "a-b"),
        ("DB_SCHEMA", "Shop"),
        ("DB_SCHEMA", "pg_shop"),
        ("DB_SCHEMA", "x" * 64),
        ("DB_ROLE_PREFIX", "shop; DROP TABLE users"),
        ("DB_ROLE_PREFIX", "x" * 59),
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
def test_a_bad_value_gives_one_line_that_names_the_variable(variable: str, value: str) -> None:
    """One variable wrong: one line, beginning with its name."""
    with pytest.raises(SettingsError) as raised:
        load({variable: value})
    assert [variable] == [line.split(":")[0] for line in str(raised.value).splitlines()]


@pytest.mark.parametrize(
    "variable", ["KEEP_RESULT", "POOL_MAX_INACTIVE_TIME", "SNAPSHOT_KEEP_DAYS", "RESULT_KEEP_DAYS"]
)
def test_an_endless_duration_is_refused(variable: str) -> None:
    """The pruner and arq compute with these; infinity would end them with an OverflowError, long after the start."""
    with pytest.raises(SettingsError, match=variable):
        load({variable: "inf"})


def test_all_wrong_variables_are_named_at_once() -> None:
    """Nobody wants to start a worker three times to learn of three mistakes."""
    with pytest.raises(SettingsError) as raised:
        load({"MAX_JOBS": "0", "DB_PORT": "x", "POLL_DELAY": "-1"})
    assert {"MAX_JOBS", "DB_PORT", "POLL_DELAY"} == {line.split(":")[0] for line in str(raised.value).splitlines()}


def test_the_least_size_of_the_pool_may_not_exceed_the_greatest() -> None:
    """The line names both."""
    with pytest.raises(SettingsError, match=r"^POOL_MIN_SIZE: is 9, more than POOL_MAX_SIZE \(2\)$"):
        load({"POOL_MIN_SIZE": "9", "POOL_MAX_SIZE": "2"})


def test_wrong_settings_end_the_process_with_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line on standard error and no traceback."""
    monkeypatch.setenv("MAX_JOBS", "none")
    with pytest.raises(SystemExit) as exit_info:
        Settings.load_or_exit()
    assert 2 == exit_info.value.code
    assert capsys.readouterr().err.startswith("MAX_JOBS: ")


@pytest.mark.parametrize(
    ("variable", "url", "parameter"),
    [
        ("DATABASE_URL", "postgresql://ada:hunter2@h/d?sslmode=verify-full&sslrootcert=/no/ca.pem", "sslrootcert"),
        ("REDIS_URL", "rediss://:hunter2@r/0?ssl_ca_certs=/no/ca.pem", "ssl_ca_certs"),
    ],
)
def test_missing_certificate_files_are_reported_at_the_start(variable: str, url: str, parameter: str) -> None:
    """The drivers would say "no such file", as of a server's socket, which is waited for."""
    with pytest.raises(
        SettingsError, match=f"^{variable}: has parameter {parameter}, which is not a file: /no/ca.pem$"
    ):
        load({**SERVERS, variable: url})


def test_existing_certificate_files_are_accepted() -> None:
    """Any file will do: whether it has certificates is seen when it is used."""
    url = f"rediss://r/0?ssl_ca_certs={__file__}"
    assert url == load({**SERVERS, "REDIS_URL": url}).redis_url.get_secret_value()  # pyright: ignore[reportOptionalMemberAccess]


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
    with pytest.raises(SettingsError, match=r"^QUEUE_NAME: is in quotes, .*: write it without quotes$"):
        load({"QUEUE_NAME": f"{quote}arq:queue{quote}"})
    assert f"{quote}a" == load({"QUEUE_NAME": f"{quote}a"}).queue_name


def test_a_queues_name_has_up_to_512_characters() -> None:
    """It is a part of every key and of every advice to the operator."""
    assert 512 == len(load({"QUEUE_NAME": "q" * 512}).queue_name)
    with pytest.raises(SettingsError, match=r"^QUEUE_NAME: .*512 characters"):
        load({"QUEUE_NAME": "q" * 513})


def test_a_user_without_a_name_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as any number."""

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(libpq.getpass, "getuser", nameless)
    with pytest.raises(SettingsError, match=r"^DATABASE_URL: has no user name"):
        load({"DATABASE_URL": "postgresql://h/d", "REDIS_URL": "redis://r"})
    assert load({"DATABASE_URL": "postgresql://h/d", "REDIS_URL": "redis://r", "PGUSER": "ada"})


def test_files_and_ports_of_libpqs_variables_are_checked() -> None:
    """The driver reads them, and would take a file that is not there for a server that is away."""
    for variable, value in (("PGSSLROOTCERT", "/no/ca.pem"), ("PGPORT", "abc")):
        with pytest.raises(SettingsError, match=f"^{variable}: "):
            load({**SERVERS, variable: value})
