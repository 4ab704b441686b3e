"""The names of all keys in Redis: arq's own, and those that Tidepool adds.

No other module and no Lua script contains the name of a key. The scripts get the prefixes as local variables (see
`scripts`), and all other keys as KEYS.

Keys of one job are a prefix and the job's id:

    arq:job:{id}          string  the job: function, arguments and enqueue time; see `wire`
    arq:in-progress:{id}  string  who runs the job; expires
    arq:retry:{id}        string  how many attempts have failed
    arq:cause:{id}        string  the error of the last failed attempt (Tidepool's)
    arq:result:{id}       string  the result, for as long as it is kept

`QueueKeys` has the keys of a queue, `FLEET` those of a fleet (the workers that share a PostgreSQL server).
"""

from arq.constants import (
    abort_jobs_ss,
    health_check_key_suffix,
    in_progress_key_prefix,
    job_key_prefix,
    result_key_prefix,
    retry_key_prefix,
)

JOB = job_key_prefix
IN_PROGRESS = in_progress_key_prefix
RETRY = retry_key_prefix
CAUSE = "arq:cause:"
RESULT = result_key_prefix
ABORTS = abort_jobs_ss
"""A sorted set of the ids of jobs that a client asked to abort; the score is when, in Unix ms."""
RECEIPT = "tidepool:receipt:"
"""The prefix of the keys of stored replies of `enqueue.lua`, so that a call can be repeated; a random name follows."""

FLEET = (
    "tidepool:budget:{database}",
    "tidepool:budget:{database}:capacity",
    "tidepool:budget:{database}:restless",
)
"""The keys of a fleet; *database* is the URL of its PostgreSQL, without the password.

A hash, worker id → its last heartbeat, the connections that it holds, and how many of them PostgreSQL does not list by
its name; a string, the newest figures of the server's connections; and a string, until when shares may change, because
a worker has joined, left or got less.
"""


class QueueKeys:
    """The names of the Redis keys of one queue. An *owner* is the name under which a worker process holds jobs.

    A worker holds jobs under a lease, a limited time that it renews. A *lapse* is the end of a lease that was not
    renewed.

    queue     sorted set  job id → due time, Unix ms; for a held job: when it is due again if nothing else puts it back
    owners    sorted set  owner → end of its lease, Unix ms
    held      sorted set  for one owner: job id → its due time before it was claimed
    lapses    hash        job id → number of owners that lost their lease while they held the job
    suspects  sorted set  id of a job with two lapses → due time

    A *dead letter* is a job that no worker understands and that was taken out of the queue. Its content, the value of
    `arq:job:{id}`, becomes the value of the key `dead_letter_prefix` + the id of its entry in the stream.

    dead_letters   stream      of each dead letter: `id` of the job, `due` (Unix ms), `function` and `reason`
    functions      sorted set  name of a function → until when a worker that has it counts as alive, Unix ms
    deserializers  sorted set  name of a function that decodes jobs → the same; both keys expire with their newest entry

    The outbox, a table in PostgreSQL, has the jobs that were enqueued in a transaction; a *relay* copies them here.

    relay          string      name of the worker process whose relay is at work; expires if it is not renewed
    refilled       string      "yes" if Redis has all jobs of the outbox that it should have, "no" while they are copied
                               again; missing after Redis has lost its data
    """

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.owners = f"{queue}:owners"
        self.lapses = f"{queue}:lapses"
        self.suspects = f"{queue}:suspects"
        self.held_prefix = f"{queue}:held:"
        self.dead_letters = f"{queue}:dead-letters"
        self.dead_letter_prefix = f"{queue}:dead-letter:"
        self.functions = f"{queue}:functions"
        self.deserializers = f"{queue}:deserializers"
        self.relay = f"{queue}:relay"
        self.refilled = f"{queue}:refilled"

    @staticmethod
    def encode_id(job_id: str) -> bytes:
        """Return the bytes of a job's id in Redis, or of an owner's name."""
        return job_id.encode("utf-8", "surrogateescape")

    @staticmethod
    def decode_id(job_id: bytes) -> str:
        """Return a job's id or an owner's name as text; `encode_id` restores the same bytes, also if not UTF-8."""
        return job_id.decode("utf-8", "surrogateescape")

    def held(self, owner: str) -> str:
        """Return the key of the sorted set of the jobs that *owner*, a worker process, holds."""
        return self.held_prefix + owner

    def health_check(self, worker_name: str) -> str:
        """Return the key of a worker's health record, which `arq --check` reads."""
        return f"{self.queue}{health_check_key_suffix}:{worker_name}"
