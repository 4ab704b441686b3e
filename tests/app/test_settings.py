"""The settings: what each is by default, and how the environment is read."""

from pathlib import Path
from typing import Any

import pytest

from settings import Settings, SettingsError, load
from tidepool import settings

ROOT = Path(__file__).parents[2]

DEFAULTS: dict[str, Any] = {
    "database_url": None,
    "db_host": None,
    "db_port": 5432,
    "db_name": "tidepool",
    "db_user": "tidepool",
    "db_password": None,
    "db_schema": "public",
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
    "db_role_prefix": "tidepool",
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
    """A change of a default has to change this table, and the README."""
    assert load({}).model_dump(exclude={"worker_name"}) == DEFAULTS


@pytest.mark.parametrize("length", [1, 31, 32, 39, 40])
def test_the_worker_is_named_after_its_host_by_default(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """By the whole name, up to the bound of a worker's name; longer ones end in a digest."""
    host = f"{'tidepool-worker-' * 3}"[: length - 1] + "7"
    monkeypatch.setattr(settings.socket, "gethostname", lambda: host)
    assert host == load({}).worker_name


def test_shares_of_the_pool_are_pairs() -> None:
    """A function's name and its part, as many as one likes."""
    text = "place_order=0.5, create_user=.25"
    assert {"place_order": 0.5, "create_user": 0.25} == load({"POOL_SHARES": text}).pool_shares


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


def test_settings_do_not_change() -> None:
    """They were checked as a whole."""
    with pytest.raises(ValueError, match="frozen"):
        load({}).max_jobs = 5  # pyright: ignore[reportAttributeAccessIssue]


def test_every_setting_has_a_description() -> None:
    """The README's table and the errors assume that the fields speak for themselves."""
    source = "".join((ROOT / path).read_text("utf-8") for path in ("settings.py", "tidepool/settings.py"))
    assert [] == [name for name in Settings.model_fields if f"    {name}: " not in source]


def test_hosts_of_long_names_have_different_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pods of one deployment differ at the end of their names only."""
    names = set[str]()
    for pod in ("a", "b"):
        monkeypatch.setattr(settings.socket, "gethostname", lambda pod=pod: f"{'tidepool-worker-' * 4}{pod}")
        names.add(load({}).worker_name)
    assert [40, 40] == [len(name) for name in names]


def test_workers_of_one_host_have_names_and_ports_of_their_own() -> None:
    """The first has those of the settings; a name that gets too long stays unique."""
    settings = load({"WORKER_NAME": "w" * 40, "METRICS_PORT": "9100"})
    names = {load({"WORKER_NAME": "w" * 40, **settings.variables_of_worker(number)}).worker_name for number in range(9)}
    assert ({}, "9102") == (settings.variables_of_worker(0), settings.variables_of_worker(2)["METRICS_PORT"])
    assert 9 == len(names)
    assert {"WORKER_NAME": "a-2"} == load({"WORKER_NAME": "a"}).variables_of_worker(1)


def test_a_home_directory_is_written_with_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files and .env files have no shell that would expand it."""
    monkeypatch.setenv("HOME", "/home/ada")
    assert Path("/home/ada/x") == load({"DATA_DIR": "~/x"}).data_dir
    with pytest.raises(SettingsError, match=r"^DATA_DIR: begins with ~"):
        load({"DATA_DIR": "~nobody-of-this-name/x"})
