"""The names of all keys in Redis: arq's own, and those that Tidepool adds.

No other module and no Lua script spells a key. The scripts get the prefixes as local variables (see `scripts`), and
everything else as KEYS.

Keys of one job are a prefix and the job's id:

    arq:job:{id}          string  the job: function, arguments and enqueue time; see `wire`
    arq:in-progress:{id}  string  who runs the job; ends by itself
    arq:retry:{id}        string  how many attempts have failed
    arq:cause:{id}        string  the error of the last failed attempt (Tidepool's)
    arq:result:{id}       string  the result, for as long as it is kept

Of a queue there are the keys of `QueueKeys`, and of a fleet those of `budget_keys`.
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
"""A sorted set of the jobs that somebody asked to abort; score: when, Unix ms."""
RECEIPT = "tidepool:receipt:"
"""The prefix of the replies of `enqueue.lua`; a random name follows."""


class QueueKeys:
    """The keys of one queue. An *owner* is a worker process that holds jobs.

    queue     sorted set  job id → due time; of a job that is held: the end of its mark (Unix ms)
    owners    sorted set  owner → end of its lease, Unix ms
    held      sorted set  of one owner: job id → its due time before it was claimed
    lapses    hash        job id → owners that were lost with it
    suspects  sorted set  jobs that two owners were lost with → due time
    """

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.owners = f"{queue}:owners"
        self.lapses = f"{queue}:lapses"
        self.suspects = f"{queue}:suspects"
        self.held_prefix = f"{queue}:held:"

    def held(self, owner: str) -> str:
        """Return the key of the jobs that *owner* holds."""
        return self.held_prefix + owner

    def health_check(self, worker_name: str) -> str:
        """Return the health key of a worker, which `arq --check` reads."""
        return f"{self.queue}{health_check_key_suffix}:{worker_name}"


def budget_keys(database: str) -> list[str]:
    """Return the keys of the fleet that shares the connections of *database*.

    tidepool:budget:{database}           hash    worker id → its last heartbeat and the connections that it holds
    tidepool:budget:{database}:capacity  string  the newest reading of the server
    tidepool:budget:{database}:restless  string  until when; set when a worker joins, leaves, or gets less
    """
    fleet = f"tidepool:budget:{database}"
    return [fleet, f"{fleet}:capacity", f"{fleet}:restless"]
