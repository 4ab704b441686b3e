"""The fixtures of `tidepool.testing` in the test suite of an application that has nothing else."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {
    "shop/__init__.py": "",
    "shop/migrations/0001_charges.sql": "CREATE TABLE charges (id int GENERATED ALWAYS AS IDENTITY, cents bigint);\n",
    "shop/application.py": """
from pydantic_settings import SettingsConfigDict
from tidepool import App, Migrations, Settings, Transaction

class Own(Settings):
    model_config = SettingsConfigDict(env_prefix="SHOP_")

app = App(settings=Own, migrations=Migrations(shop="shop"))

@app.job
async def charge(tx: Transaction, cents: int) -> int:
    return await tx.fetchval("INSERT INTO charges (cents) VALUES ($1) RETURNING id", cents)
""",
    "conftest.py": """
import pytest
from shop.application import app
from tidepool.testing import drain

pytest_plugins = ["tidepool.testing"]

@pytest.fixture(scope="session")
def tidepool_app():
    return app
""",
    "test_shop.py": """
import logging
import pytest
from shop.application import app, charge
from tidepool import Applied
from tidepool.testing import drain

@pytest.mark.asyncio
@pytest.mark.parametrize("time", range(2))
async def test_each_test_has_a_database_of_its_own(tidepool_urls, time, caplog):
    async with app:
        await charge.enqueue(990)
    assert [Applied(1)] == [job.outcome for job in await drain(app)]
    assert logging.getLogger().handlers.count(caplog.handler) == 1

@pytest.mark.asyncio
async def test_a_function(tidepool_transaction):
    assert 1 == await charge(tidepool_transaction, 990)
""",
}


@pytest.mark.timeout(120)
def test_a_suite_starts_servers_of_its_own_and_migrates_its_databases(tmp_path: Path) -> None:
    """In pytest-asyncio's strict mode, with settings that have a prefix, and with logging left as pytest has it."""
    for name, text in MODULES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:xdist", "--rootdir", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    assert re.search(r"\b3 passed\b", done.stdout)
