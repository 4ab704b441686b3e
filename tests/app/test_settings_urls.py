"""The servers' URLs in the settings, and the passwords in them, which are never shown."""

from urllib.parse import unquote, urlsplit

import pytest
from factories import SERVERS

from settings import SettingsError, load, without_password


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
    with pytest.raises(SettingsError) as raised:
        load(environment)
    assert "hunter2" not in f"{raised.value!s} {raised.value!r}"
    assert str(raised.value).startswith(("DATABASE_URL: ", "REDIS_URL: "))


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


def test_neither_server_named_means_embedded() -> None:
    """If both are named, no embedded server is used."""
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
    """Of its query only the parameters that locate the server are logged."""
    assert shown == without_password(url)
