"""What asyncpg takes from its environment: checked by name, or refused where it would be ignored."""

from pathlib import Path

import pytest

from settings import SettingsError, load
from tidepool.libpq import LibpqVariables
from tidepool.urls import UrlError

URL = "postgresql://ada@h/shop"
SECRET = "hunter2"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PGHOST", "h,"),
        ("PGHOST", "a b"),
        ("PGHOST", "::1"),
        ("PGHOST", f"/{'s' * 100}"),
        ("PGPORT", "0"),
        ("PGPORT", "99999"),
        ("PGPORT", " 5432"),
        ("PGPORT", "9" * 5000),
        ("PGPORT", "1,"),
        ("PGSSLMODE", "require\r"),
        ("PGSSLNEGOTIATION", "x"),
        ("PGTARGETSESSIONATTRS", "x"),
        ("PGSSLMINPROTOCOLVERSION", "x"),
        ("PGSSLMAXPROTOCOLVERSION", "TLSv9"),
        ("PGGSSLIB", "x"),
        ("PGSSLROOTCERT", "/"),
        ("PGSSLROOTCERT", "system"),
        ("PGPASSFILE", "/dev/zero"),
        ("PGSERVICE", "prod"),
        ("PGHOSTADDR", "10.0.0.1"),
        ("PGOPTIONS", "-c search_path=x"),
    ],
)
def test_a_variable_that_the_driver_cannot_use_or_ignores_is_refused_by_name(variable: str, value: str) -> None:
    """Libpq would use some of them; without a word the service would be elsewhere than psql is."""
    with pytest.raises(SettingsError, match=rf"^{variable}: [^\n\r]+$"):
        load({"DATABASE_URL": URL, "REDIS_URL": "redis://r", variable: value})
    assert load({variable: value}).embedded  # they are nobody's business there


def test_empty_variables_count_as_absent() -> None:
    """As in libpq; compose files pass variables on that are not set as empty ones."""
    environment = {"PGSSLMODE": "", "PGPASSWORD": "", "PGHOST": "h", "HOME": ""}
    LibpqVariables(environment).drop_empty()
    assert {"PGHOST": "h", "HOME": ""} == environment


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[prod]\nhost=db\nport=5433\nsslmode=require\npassword=hunter2", None),
        ("[other]\nhost=db", "which is not in"),
        ("password=hunter2", "no service file can be read"),
        ("[prod]\nhunter2", "no service file can be read"),
        ("[prod]\nhost=a\nhost=hunter2", "no service file can be read"),
        ("[prod]\npassword=%hunter2", "a % in its password"),
        ("[prod]\nport=hunter2", "port that has a port that is not a number"),
        ("[prod]\nsslmode=hunter2", "sslmode that may only be"),
        ("[prod]\nhostaddr=10.0.0.1", "hostaddr that is not known"),
        ("[prod]\noptions=-c geqo=off", "options, which the driver ignores there"),
        ("[prod]\nhost=\udcff", "no service file can be read"),
    ],
)
def test_a_service_is_checked_and_never_repeated(tmp_path: Path, text: str, said: str | None) -> None:
    """The driver takes a service that is not there for none, and repeats lines that it cannot read."""
    file = tmp_path / "pg_service.conf"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    variables = LibpqVariables({"PGSERVICEFILE": str(file)})
    if said is None:
        variables.check(f"{URL}?service=prod")
        return
    with pytest.raises(UrlError, match=r"^DATABASE_URL: ") as refused:
        variables.check(f"{URL}?service=prod")
    assert said in str(refused.value)
    assert SECRET not in str(refused.value)


def test_a_service_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A directory is not accepted either."""
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UrlError, match="no service file can be read"):
            LibpqVariables({"PGSERVICEFILE": str(path)}).check(f"{URL}?service=prod")
