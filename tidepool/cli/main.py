"""The operators' commands, as an application or `tidepool` itself offers them."""

import argparse
import asyncio
import sys
from datetime import timedelta
from typing import Any

from tidepool import durations
from tidepool.app import App
from tidepool.cli import terminal
from tidepool.cli.advice import ADVISE_EXAMPLES, WHY_EXAMPLES, advise, why
from tidepool.cli.pool import EXAMPLES as POOL_EXAMPLES
from tidepool.cli.pool import pool_health
from tidepool.cli.terminal import Parser
from tidepool.embedded import Urls
from tidepool.pool import address
from tidepool.pool.pool import PoolConfig
from tidepool.settings import Settings
from tidepool.storage.repositories import Repositories
from tidepool.storage.roles import ROLES, grant_roles
from tidepool.urls import UrlError, as_libpq_reads

_SNAPSHOT_COLUMNS = (
    "tick", "worker_id", "size", "idle", "in_use", "in_use_max", "waiting_max", "acquire_ok", "wait_us_max",
    "hold_us_max", "jobs_applied", "jobs_rejected", "jobs_failed", "loop_lag_us_max",
)  # fmt: skip
_DESCRIPTION = "The operators' commands. To run jobs: `arq worker.WorkerSettings`."
_MIGRATE_EXAMPLES = """  python -m worker migrate
  python -m worker migrate --roles                     as the tables' owner; see docs/operations.md"""
_URLS_EXAMPLES = """  python -m worker urls --json | jq -r .redis
  PGSERVICEFILE=<(python -m worker urls --service) psql service=tidepool     in bash and zsh"""
_SNAPSHOTS_EXAMPLES = """  python -m worker snapshots --since 10m
  python -m worker snapshots --json | jq '.[0].in_use_max'"""


async def snapshots(arguments: argparse.Namespace, settings: Settings, urls: Urls) -> int:
    """List pool snapshots, the newest first."""
    pool = await terminal.open_pool(settings, urls, "snapshots", arguments.app.migrations)
    async with pool.acquire() as connection:
        rows = await Repositories(connection).snapshots.newest(
            worker_id=arguments.worker, since=durations.before_now(arguments.since), limit=arguments.limit
        )
    await pool.close()
    empty = "no snapshots yet: is a worker running, and ENABLE_MONITORING on?"
    terminal.print_rows(rows, _SNAPSHOT_COLUMNS, as_json=arguments.json, empty=empty)
    return 0


async def migrate_now(arguments: argparse.Namespace, settings: Settings, urls: Urls) -> int:
    """Apply the missing migrations."""
    config = PoolConfig(url=urls.database, application_name="tidepool-migrate")
    migrations = await terminal.migrate_first(config, settings, urls, arguments.app.migrations)
    applied = [str(migration) for migration in migrations]
    if arguments.roles:
        given = zip(ROLES, (settings.work_password, settings.read_password), strict=True)
        passwords = {role: password.get_secret_value() for role, password in given if password}
        await grant_roles(config, passwords, arguments.app.grants)
    if arguments.json:
        terminal.print_json({"applied": applied} | ({"roles": ROLES} if arguments.roles else {}))
        return 0
    print("\n".join(f"applied {name}" for name in applied) or "nothing to apply: the schema is up to date")
    if arguments.roles:
        print(f"granted what they need: {', '.join(ROLES)}")
    return 0


async def show_urls(arguments: argparse.Namespace, _settings: Settings, urls: Urls) -> int:
    """Print the URLs in use, for other programs: with their passwords, and with a scheme that libpq knows."""
    if arguments.service:
        try:
            print(address.service_file(urls.database))
        except UrlError as error:
            raise terminal.CommandError(f"DATABASE_URL: {error}") from None
    else:
        _print_urls(arguments, urls)
    return 0


def _print_urls(arguments: argparse.Namespace, urls: Urls) -> None:
    addresses = {"database": as_libpq_reads(urls.database), "redis": urls.redis}
    if arguments.json:
        terminal.print_json(addresses)
    else:
        print("\n".join(f"{name:8}  {url}" for name, url in addresses.items()))


async def services(arguments: argparse.Namespace, settings: Settings, urls: Urls) -> int:
    """Keep the embedded servers running until Ctrl-C."""
    if not settings.embedded:
        raise terminal.CommandError("DATABASE_URL and REDIS_URL are set: there are no embedded servers to run")
    _print_urls(arguments, urls)
    sys.stdout.flush()
    await asyncio.Event().wait()
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="python -m worker", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(metavar="command", required=True, parser_class=Parser)
    listing = _add(commands, "snapshots", snapshots, _SNAPSHOTS_EXAMPLES)
    listing.add_argument("--worker", metavar="ID", help="only this worker's")
    listing.add_argument("--since", type=terminal.duration, metavar="AGO", help="only the last 90s, 10m, 1.5h, 7d …")
    listing.add_argument("--limit", type=terminal.positive, default=20, metavar="N", help="at most N rows (default 20)")
    health = _add(commands, "pool", pool_health, POOL_EXAMPLES)
    health.add_argument(
        "--since", type=terminal.duration, default=timedelta(minutes=10), metavar="AGO", help="default 10m"
    )
    health.add_argument("--watch", action="store_true", help="draw anew every five seconds, until Ctrl-C")
    for name, command, examples in (("why", why, WHY_EXAMPLES), ("advise", advise, ADVISE_EXAMPLES)):
        judging = _add(commands, name, command, examples)
        judging.add_argument(
            "--since", type=terminal.duration, default=timedelta(minutes=15), metavar="AGO", help="default 15m"
        )
    migrating = _add(commands, "migrate", migrate_now, _MIGRATE_EXAMPLES)
    migrating.add_argument(
        "--roles", action="store_true", help=f"also make the roles {', '.join(ROLES)}, and grant them what they need"
    )
    _add(commands, "services", services, "  python -m worker services")
    addresses = _add(commands, "urls", show_urls, _URLS_EXAMPLES)
    addresses.add_argument(
        "--service",
        action="store_true",
        help="print a service file for psql instead, which keeps the password out of its arguments",
    )
    return top


def _add(commands: Any, name: str, command: Any, examples: str) -> argparse.ArgumentParser:
    added = commands.add_parser(name, help=command.__doc__, description=command.__doc__, examples=examples)
    added.set_defaults(command=command)
    return added


def main(app: App) -> None:
    """Run the command that the command line names, for *app*."""
    arguments = parser().parse_args()
    arguments.app = app
    terminal.run(lambda settings, urls: arguments.command(arguments, settings, urls), app.settings)
