"""Defines the commands of `tidepool`, with which operators run, inspect and manage the workers of any application.

`python -m worker` has the same commands for the service of this repository.
"""

import argparse
import asyncio
import re
import sys

from tidepool import servers
from tidepool.cli import letters, pool, serve, status, terminal, work
from tidepool.cli.commands import CommandLine, Subcommand
from tidepool.cli.context import Context
from tidepool.cli.jobs import JOB_COMMANDS
from tidepool.pool.config import PoolConfig
from tidepool.settings import Settings
from tidepool.storage.roles import Roles
from tidepool.urls import PostgresUrl, UrlError

_DESCRIPTION = """Run, inspect and manage Tidepool's workers: outcomes of jobs, connection pools, tables and servers.

Uses the PostgreSQL and the Redis that DATABASE_URL and REDIS_URL name; without them, embedded servers whose data are
in the directory DATA_DIR."""
_MIGRATE_EXAMPLES = """  %(prog)s
  %(prog)s --roles                     as the tables' owner; see docs/operations.md
  %(prog)s --sql | psql -v ON_ERROR_STOP=1 DATABASE"""
_URLS_EXAMPLES = """  %(prog)s --json | jq -r .redis
  PGSERVICEFILE=<(%(prog)s --service) psql service=tidepool     in bash and zsh"""


def command_line(program: str) -> CommandLine:
    """Return a `CommandLine` with all of the operators' commands; *program* is the name in its help texts."""
    own = (
        Subcommand(
            "migrate", _migrate, _MIGRATE_EXAMPLES, _add_migrate_options, own_servers=True, needs=["database_url"]
        ),
        Subcommand("services", _services, "  %(prog)s"),
        Subcommand("urls", _urls, _URLS_EXAMPLES, _add_urls_options),
    )
    first = (work.COMMAND, status.COMMAND, *JOB_COMMANDS, letters.COMMAND)
    return CommandLine(program, _DESCRIPTION, (*first, *pool.COMMANDS, serve.COMMAND, *own))


def _add_migrate_options(migrate: argparse.ArgumentParser) -> None:
    instead = migrate.add_mutually_exclusive_group()
    instead.add_argument(
        "--sql",
        action="store_true",
        help="print the SQL of all migrations, and connect to no server (default: apply those that are missing). The "
        "SQL leaves out what is applied already, so that it can run more than once",
    )
    instead.add_argument(
        "--roles",
        action="store_true",
        help="also create the PostgreSQL roles tidepool_work (for workers) and tidepool_read (for reports), each with "
        "only the rights that it needs; DB_ROLE_PREFIX gives them other names (default: create no roles)",
    )


def _add_urls_options(urls: argparse.ArgumentParser) -> None:
    urls.add_argument(
        "--service",
        action="store_true",
        help="print a service file, from which psql reads how to connect, instead of the URLs; with its path in the "
        "variable PGSERVICEFILE, psql needs no password on its command line",
    )


async def _migrate(arguments: argparse.Namespace, context: Context[Settings]) -> int:
    """Create or update the tables in the database, by applying the migrations that have not been applied yet.

    Tidepool's own migrations come first, in the schema DB_SCHEMA, which is created if it is missing; then come the
    application's. Nothing happens if the tables are up to date.
    """
    if arguments.sql:
        _print_sql(arguments, context)
        return 0
    with servers.running(context.settings):
        return await _apply(arguments, context)


def _print_sql(arguments: argparse.Namespace, context: Context[Settings]) -> None:
    statements = context.app.migrations.script(context.settings.db_schema)
    script = "".join(f"{statement};\n\n" for statement in ("BEGIN", *statements, "COMMIT")).rstrip()
    if arguments.json:
        terminal.print_json({"sql": script})
    else:
        print(script)


async def _apply(arguments: argparse.Namespace, context: Context[Settings]) -> int:
    """Apply the missing migrations, with `--roles` create the roles, and print what was done."""
    config = PoolConfig(
        url=context.urls.database, application_name="tidepool-migrate", schema=context.settings.db_schema
    )
    migrations = await context.migrate(config)
    answer: dict[str, list[str]] = {"applied": [str(migration) for migration in migrations]}
    if arguments.roles:
        answer["roles"] = await _grant(config, context)
    if arguments.json:
        terminal.print_json(answer)
        return 0
    print("\n".join(f"applied {name}" for name in answer["applied"]) or "nothing to apply: the schema is up to date")
    if arguments.roles:
        print(f"granted what they need: {', '.join(answer['roles'])}")
    return 0


async def _grant(config: PoolConfig, context: Context[Settings]) -> list[str]:
    """Create the roles for workers and for reports, with their rights; return their names."""
    settings, roles = context.settings, Roles.of(context.settings.db_role_prefix)
    given = {roles.work: settings.work_password, roles.read: settings.read_password}
    passwords = {role: password.get_secret_value() for role, password in given.items() if password}
    await roles.grant(config, passwords, context.app.grants)
    return [roles.work, roles.read]


async def _urls(arguments: argparse.Namespace, context: Context[Settings]) -> int:
    """Print the connection URLs of PostgreSQL and Redis, passwords included, to use in programs such as psql.

    They are DATABASE_URL and REDIS_URL, or else the URLs of the embedded servers, which can be reached only while a
    worker or another command, such as `services`, keeps them running.
    """
    if arguments.service:
        try:
            print(PostgresUrl.parse(context.urls.database).service_file())
        except UrlError as error:
            raise terminal.CommandError(f"DATABASE_URL: {error}") from None
    else:
        _print_urls(arguments, context)
    return 0


def _print_urls(arguments: argparse.Namespace, context: Context[Settings]) -> None:
    # psql and pg_dump do not accept SQLAlchemy's scheme.
    database = re.sub(r"^postgresql\+asyncpg://", "postgresql://", context.urls.database)
    addresses = {"database": database, "redis": context.urls.redis}
    if arguments.json:
        terminal.print_json(addresses)
    else:
        print("\n".join(f"{name:8}  {url}" for name, url in addresses.items()))


async def _services(arguments: argparse.Namespace, context: Context[Settings]) -> int:
    """Run the embedded PostgreSQL and Redis until Ctrl-C, and print their connection URLs.

    Workers and other commands start these servers themselves if they do not run, and stop them when nobody uses them
    any more; this command keeps them running. It refuses to start if DATABASE_URL and REDIS_URL are set.
    """
    if not context.settings.embedded:
        raise terminal.CommandError("DATABASE_URL and REDIS_URL are set: there are no embedded servers to run")
    _print_urls(arguments, context)
    sys.stdout.flush()
    await asyncio.Event().wait()
    return 0
