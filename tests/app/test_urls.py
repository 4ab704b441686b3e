"""The URLs of both servers: what is taken, what is refused and in which words, and that nothing is given away."""

import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.bench.servers import with_databases
from settings import SettingsError, load
from tidepool.cli.context import Context
from tidepool.cli.operators import command_line
from tidepool.embedded import Urls
from tidepool.queue.connection import RedisClient
from tidepool.urls import UNREADABLE, PostgresUrl, RedisUrl, UrlError, without_password
from worker import app

DATABASE, REDIS = "postgresql://ada@h/shop", "redis://r"
SECRET = "hunter2"


def given_to_asyncpg(url: str, *names: str) -> tuple[Any, ...]:
    """Return what asyncpg gets of *url* under these names."""
    found = PostgresUrl.parse(url).driver_arguments()
    return tuple(found.get(name) for name in names)


@pytest.mark.parametrize(
    ("url", "host", "port", "user", "password", "database"),
    [
        ("postgresql://u:p@h:5433/d", ["h"], [5433], "u", "p", "d"),
        ("postgres://u@h/d", ["h"], None, "u", None, "d"),
        ("postgresql+asyncpg://u:p@h/d", ["h"], None, "u", "p", "d"),
        ("postgresql://h1:1,h2:2/d", ["h1", "h2"], [1, 2], None, None, "d"),
        ("postgresql://h1,h2:2/d", ["h1", "h2"], [5432, 2], None, None, "d"),
        ("postgresql://[::1]:5433/d", ["::1"], [5433], None, None, "d"),
        ("postgresql:///d?host=/run&port=5433", ["/run"], [5433], None, None, "d"),
        ("postgresql://%2Frun%2Fpg/d", ["/run/pg"], None, None, None, "d"),
        ("postgresql://h/d?host=x&dbname=e&user=a%40b&password=p%2B+q", ["x"], None, "a@b", "p++q", "e"),
        ("postgresql://u:p%40%2F%3A%23@h/d", ["h"], None, "u", "p@/:#", "d"),
        ("postgresql://", None, None, None, None, None),
    ],
)
def test_a_url_of_postgresql_is_read_as_libpq_reads_it(
    url: str, host: Any, port: Any, user: Any, password: Any, database: Any
) -> None:
    """In particular: a + is a plus, and what the query names wins."""
    assert (host, port, user, password, database) == given_to_asyncpg(
        url, "host", "port", "user", "password", "database"
    )


@pytest.mark.parametrize(
    ("query", "name", "value"),
    [
        ("connect_timeout=7", "timeout", 7.0),
        ("connect_timeout=0", "timeout", None),
        ("statement_cache_size=0", "statement_cache_size", 0),
        ("pgbouncer=true", "statement_cache_size", 0),
        ("sslmode=require&channel_binding=require", "dsn", "postgresql://?sslmode=require"),
        ("target_session_attrs=read-write", "dsn", "postgresql://?target_session_attrs=read-write"),
        ("ssl=true", "dsn", "postgresql://?sslmode=require"),
        ("options=-c%20geqo%3Doff", "dsn", "postgresql://?options=-c+geqo%3Doff"),
        ("keepalives=1&keepalives_idle=3&application_name=x&gssencmode=prefer", "dsn", "postgresql://?"),
        ("client_encoding=UTF8&schema=public&sslmode=", "dsn", "postgresql://?"),
    ],
)
def test_parameters_of_postgresql_are_honoured_or_dropped(query: str, name: str, value: object) -> None:
    """What asyncpg does not know never becomes a setting of the session."""
    assert (value,) == given_to_asyncpg(f"{DATABASE}?{query}", name)


def test_the_systems_cas_check_certificate_and_name() -> None:
    """`sslrootcert=system` means verify-full, as in libpq."""
    (context,) = given_to_asyncpg(f"{DATABASE}?sslrootcert=system", "ssl")
    assert context.check_hostname
    with pytest.raises(UrlError, match="sslmode may only be verify-full"):
        PostgresUrl.parse(f"{DATABASE}?sslrootcert=system&sslmode=require")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"{DATABASE}?junk=1", "has parameter junk, which is not known"),
        (f"{DATABASE}?search_path=x", "parameter search_path"),
        (f"{DATABASE}?hostaddr=10.0.0.1", "parameter hostaddr"),
        (f"{DATABASE}?requirepeer=x", "parameter requirepeer"),
        (f"{DATABASE}?sslmode=mro", "parameter sslmode, which may only be disable or"),
        (f"{DATABASE}?gssencmode=require", "parameter gssencmode"),
        (f"{DATABASE}?client_encoding=latin1", "parameter client_encoding"),
        (f"{DATABASE}?target_session_attrs=any-old", "parameter target_session_attrs"),
        (f"{DATABASE}?connect_timeout=soon", "parameter connect_timeout"),
        (f"{DATABASE}?statement_cache_size=-1", "parameter statement_cache_size"),
        (f"{DATABASE}?host=a,,b", "parameter host, in whose list one is empty"),
        (f"{DATABASE}?host=a,b&port=1,2,3", "3 ports for 2 hosts"),
        ("postgresql://h1,/d", "a host in its list"),
        ("postgresql://h:port/d", "a port that is not a number"),
        ("postgresql://h:0/d", "a port that is not a number"),
        ("postgresql://h:70000/d", "a port that is not a number"),
        ("postgresql://a..b/d", "a host that is not"),
        (f"postgresql://{'x' * 64}/d", "a host that is not"),
        ("postgresql://h/d#x", "has a #"),
        ("postgresql://u:%zz@h/d", "has a % in its password"),
        ("postgresql://u:%ff@h/d", "not UTF-8"),
        ("postgresql://u:%00@h/d", "a zero byte"),
        ("postgresql://h/d e", "a blank"),
        ("postgresql:h", "must begin with"),
        ("mysql://h/d", "must begin with"),
        ("POSTGRESQL://h/d", "must begin with"),
        ("postgresql://h/d?connect_timeout=1_0", "must be a whole number"),
        ("postgresql://h/d?connect_timeout=%D9%A3", "must be a whole number"),
        ("postgresql://h/d?connect_timeout=99999999999", "must be a whole number"),
        (f"postgresql://h/d?statement_cache_size={'9' * 400}", "must be a whole number"),
        (f"postgresql:///d?host=/{'s' * 100}", "a socket whose path has more than 107 bytes"),
        (f"{DATABASE}?sslcert=/no/cert.pem", "sslcert, which is not a file: /no/cert.pem"),
        (f"{DATABASE}?passfile={Path('/')}", "passfile, which is not a file: /"),
    ],
)
def test_a_url_of_postgresql_is_refused_in_words(url: str, words: str) -> None:
    """One line that names the parameter or the part."""
    with pytest.raises(SettingsError) as refused:
        load({"DATABASE_URL": url, "REDIS_URL": REDIS})
    assert words in str(refused.value)
    assert str(refused.value).startswith("DATABASE_URL: ")
    assert 1 == len(str(refused.value).splitlines())


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://r?foo=1", "parameter foo, which is not known"),
        ("redis://r?decode_responses=true", "parameter decode_responses"),
        ("redis://r?max_connections=2", "parameter max_connections"),
        ("redis://r?protocol=3", "parameter protocol, which may only be 2"),
        ("redis://r?db=abc", "parameter db"),
        ("redis://r?db=-1", "parameter db"),
        ("redis://r?socket_timeout=inf", "parameter socket_timeout"),
        ("redis://r?ssl_cert_reqs=none", "belongs to rediss://"),
        ("rediss://r?ssl_cert_reqs=CERT_NONE", "parameter ssl_cert_reqs"),
        ("rediss://r?ssl_cert_reqs=none&ssl_check_hostname=true", "ssl_check_hostname=true beside"),
        (f"rediss://r?ssl_certfile={__file__}", "both parameters"),
        ("redis://r/mydb", "path that is not the number"),
        ("redis://r/0/1", "path that is not the number"),
        ("redis://a:1,b:2/0", "several hosts"),
        ("redis://r:99999", "a port"),
        ("unix://run/redis.sock", "names no socket"),
        ("unix:///run/redis.sock?socket_keepalive=1", "parameter socket_keepalive"),
        ("sentinel://r", "must begin with"),
        ("redis://r?db=%203", "parameter db, which must be a whole number"),
        ("redis://r?db=%D9%A3", "parameter db, which must be a whole number"),
        ("redis://r?db=99999999999", "parameter db, which must be a whole number"),
        (f"redis://r?health_check_interval={'9' * 400}", "parameter health_check_interval, which must be"),
        ("redis://r?socket_timeout=1_0", "parameter socket_timeout, which must be"),
        ("redis://r?socket_keepalive=off", "parameter socket_keepalive, which may only be true or false"),
        ("rediss://r?ssl_check_hostname=off", "parameter ssl_check_hostname, which may only be true or false"),
        ("redis://r?db=1&db=2", "parameter db more than once"),
        ("rediss://r?ssl_cert_reqs=none&ssl_cert_reqs=required", "parameter ssl_cert_reqs more than once"),
        ("redis://%2Frun%2Fredis.sock/0", "names a socket as its host"),
        (f"unix:///{'s' * 107}", "a socket whose path has more than 107 bytes"),
        ("unix:///run/%00.sock", "a zero byte in its path"),
        ("http://r", "must begin with"),
    ],
)
def test_a_url_of_redis_is_refused_in_words(url: str, words: str) -> None:
    """One line that names the parameter or the part."""
    with pytest.raises(SettingsError) as refused:
        load({"DATABASE_URL": DATABASE, "REDIS_URL": url})
    assert words in str(refused.value)
    assert str(refused.value).startswith("REDIS_URL: ")


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://r/",
        "redis://:p@r:6379/3",
        "redis://u:p@w@[::1]:6379",
        "rediss://r?ssl_cert_reqs=none",
        "rediss://r?ssl_check_hostname=false&ssl_cert_reqs=required&ssl_ciphers=DEFAULT",
        "unix://u:p@/run/redis.sock?db=3",
        "redis://r?socket_timeout=3&socket_connect_timeout=2&socket_keepalive=no&health_check_interval=5&client_name=x",
        "redis://r?username=u&password=p&protocol=2",
    ],
)
async def test_what_is_taken_redis_py_and_arq_take_too(url: str) -> None:
    """The connection is made, short of connecting."""
    RedisUrl.parse(url)
    pool: Any = RedisClient.open(url, queue_name="q").connection_pool
    made = pool.make_connection()
    if url.startswith("rediss"):
        made.ssl_context.get()
    assert isinstance(RedisClient.settings_for(url).database, int)
    await pool.aclose()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:tp:hunter2@host/db",
        "postgresql:///odd:hunter2@h/db",
        "postgresql://odd:7/hunter2@h/db",
        "postgresql://odd:7?hunter2@h/db",
        "postgresql://odd:7?hunter2=1@h/db",
        "postgresql://odd:7#hunter2@h/db",
        "postgresql://odd:7@hunter2@h/db",
        "postgresql://odd:hunter2",
        "postgresql://odd:[hunter2@h/db",
        "postgresql://odd:\thunter2 @h/db",
        "redis://:12/hunter2@host",
        "redis:user:hunter2@host",
        "redis://:hunter2",
        "unix:user:hunter2@/run",
        "user:hunter2@h",
    ],
)
def test_a_url_that_does_not_parse_is_never_shown(url: str) -> None:
    """Neither in the error nor where a URL is logged."""
    variable = "REDIS_URL" if url.startswith(("redis", "unix")) else "DATABASE_URL"
    with pytest.raises(SettingsError) as refused:
        load({"DATABASE_URL": DATABASE, "REDIS_URL": REDIS, variable: url})
    assert SECRET not in f"{refused.value!s} {refused.value!r}"
    assert UNREADABLE == without_password(url)


@pytest.mark.parametrize("url", ["redis://hunter2@r", "redis://ada%3Ahunter2@r", "postgresql://ada%3ahunter2@h/d"])
def test_what_may_be_a_password_in_the_place_of_a_name_is_not_shown(url: str) -> None:
    """Redis's URL is written so where the colon before a password is forgotten."""
    assert SECRET not in without_password(url)


def test_a_zone_of_ipv6_is_shown() -> None:
    """`%25` is its percent sign."""
    for url in ("postgresql://[fe80::1%25eth0]:5433/d", "redis://[fe80::1%25lo]:6379"):
        assert url == without_password(url)


SCHEMES = ("postgresql://", "postgres:", "postgresql+asyncpg://", "redis://", "rediss:/", "redis:", "unix://", "")
NOISE = st.text(st.sampled_from("@:/?#[]%&=, ,\\\n7ax"), max_size=4)


@given(st.sampled_from(SCHEMES), NOISE, NOISE, NOISE, st.sampled_from(["h/0", "h:1/d?x=1", "[::1]", ""]))
def test_the_password_of_any_text_stays_secret(scheme: str, user: str, before: str, after: str, rest: str) -> None:
    """It stands between a colon and an @, with anything that people forget to encode around it."""
    url = f"{scheme}u{user}:{before}{SECRET}{after}@{rest}"
    for variable in ("DATABASE_URL", "REDIS_URL"):
        said = ""
        try:
            loaded = load({"DATABASE_URL": DATABASE, "REDIS_URL": REDIS, variable: url})
            said = repr(loaded)
        except SettingsError as error:
            said = f"{error!s} {error!r}"
        assert SECRET not in said
    assert SECRET not in without_password(url)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
async def test_libpq_gets_a_scheme_that_it_knows(scheme: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The rest stays as it is, even where it looks like a scheme."""
    rest = "u:postgresql+asyncpg@h:5433/d?sslmode=require"
    urls = Urls(f"{scheme}://{rest}", REDIS)
    arguments = command_line("tidepool").parser.parse_args(["urls", "--json"])
    await arguments.command.run(arguments, Context(app, load({}), urls))
    printed = json.loads(capsys.readouterr().out)
    assert {"database": f"{scheme.removesuffix('+asyncpg')}://{rest}", "redis": REDIS} == printed


@given(st.text(st.sampled_from(string.printable + "é☃\ud800"), max_size=40))
def test_any_text_is_taken_or_refused_in_one_line(text: str) -> None:
    """Nothing but `SettingsError` comes out, and what is taken the driver can read."""
    for variable, scheme in (("DATABASE_URL", "postgresql://"), ("REDIS_URL", "redis://"), ("REDIS_URL", "unix://")):
        for url in (text, scheme + text):
            without_password(url)
            try:
                load({"DATABASE_URL": DATABASE, "REDIS_URL": REDIS, variable: url})
            except SettingsError as error:
                lines = str(error).splitlines()
            else:
                lines = [variable]
                if variable == "REDIS_URL":
                    RedisClient.settings_for(url.strip() or REDIS)
                else:
                    PostgresUrl.parse(url.strip() or DATABASE).driver_arguments()
            assert 1 == len(lines)


@pytest.mark.parametrize(
    ("url", "other"),
    [
        ("postgresql:///d?host=/run&port=5433", "postgresql:///own?host=/run&port=5433"),
        ("postgresql://u@/d?host=/run", "postgresql://u@/own?host=/run"),
        ("postgresql:///?host=/run", "postgresql:///own?host=/run"),
        ("postgresql://u:p%2F@h1:1,h2:2/d?sslmode=require", "postgresql://u:p%2F@h1:1,h2:2/own?sslmode=require"),
        ("postgresql://h/d?dbname=e&user=u", "postgresql://h/own?user=u"),
        ("postgresql://h?database=e", "postgresql://h/own"),
        ("postgres://[::1]:5433", "postgres://[::1]:5433/own"),
    ],
)
def test_another_database_of_postgresql(url: str, other: str) -> None:
    """Whatever names the database in the URL names the other one, and the rest stays what it is."""
    assert Urls(other, "redis:///15") == with_databases(Urls(url, "redis://"), "own", 15)
    before, after = PostgresUrl.parse(url).driver_arguments(), PostgresUrl.parse(other).driver_arguments()
    assert after["database"] == "own"
    assert {name: value for name, value in before.items() if name != "database"} == {
        name: value for name, value in after.items() if name != "database"
    }


@pytest.mark.parametrize(
    ("url", "other"),
    [
        ("unix:///run/r.sock", "unix:///run/r.sock?db=15"),
        ("unix://u:p@/run/r.sock?db=5&socket_timeout=3", "unix://u:p@/run/r.sock?socket_timeout=3&db=15"),
        ("redis://:p@h:1/3", "redis://:p@h:1/15"),
        ("redis://h/3?db=4&username=u&password=p", "redis://h/15?username=u&password=p"),
        ("rediss://h?ssl_cert_reqs=none", "rediss://h/15?ssl_cert_reqs=none"),
    ],
)
def test_another_database_of_redis(url: str, other: str) -> None:
    """The same for Redis: a socket's path is no database, and the parameter counts more than the path."""
    assert Urls("postgresql:///own", other) == with_databases(Urls("postgresql://", url), "own", 15)
    RedisUrl.parse(other)
    before, after = (RedisClient.open(one, queue_name="q").connection_pool.connection_kwargs for one in (url, other))
    assert after.pop("db") == 15
    before.pop("db", None)
    assert before == after


@pytest.mark.parametrize(
    ("url", "lines"),
    [
        ("postgresql:///d?host=/run&port=5433", ["host=/run", "port=5433", "dbname=d"]),
        (
            "postgresql://u:p%40%2F%23%3D@h1:1,h2:2/d",
            ["host=h1,h2", "port=1,2", "user=u", "password=p@/#=", "dbname=d"],
        ),
        ("postgresql+asyncpg://h/d?sslmode=require", ["host=h", "dbname=d", "sslmode=require"]),
        ("postgresql://", []),
    ],
)
def test_a_service_file_has_the_parts_of_the_url(url: str, lines: list[str]) -> None:
    """As libpq reads them: a line each, not encoded."""
    assert ["[tidepool]", *lines] == PostgresUrl.parse(url).service_file().splitlines()


@pytest.mark.parametrize("password", ["a%0Ahost%3Devil", "a%20", "%09a"])
def test_a_password_that_no_service_file_holds_is_refused(password: str) -> None:
    """It would be another line, or be read without its blank; the text does not have it."""
    with pytest.raises(UrlError, match="has a password that a service file cannot hold") as refused:
        PostgresUrl.parse(f"postgresql://u:{password}@h/d").service_file()
    assert "evil" not in str(refused.value)
