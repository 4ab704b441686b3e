"""Checks job ids by the one rule that clients, the HTTP API, the queue and the ledger share.

An id becomes part of a Redis key, a log field, a primary key in PostgreSQL, text on the operators' page and a segment
of a URL. Natural keys such as `or-p-BANK CHARGES` are allowed as well as random ids. Ids are compared code point by
code point: `é` as one character and as `e` with an accent are two ids.
"""

import hashlib
import re

MAX_ID_CHARACTERS = 200
"""Max characters of an id. That fits into every place that is named above, and into an index of PostgreSQL."""
_DIGEST_CHARACTERS = 32
"""Hexadecimal digits of a digest, 128 bits: no two ids will have the same one."""
_REPLACEMENT = "\ufffd"
"""The character that decoders put in place of invalid bytes. If it were allowed, different bytes could be one id."""
_ESCAPED = re.compile(rf"~[0-9a-f]{{{_DIGEST_CHARACTERS}}}\Z")
"""Matches the end of every id that `ledger_id` has escaped; no other id may end like that."""


def check_id(job_id: str) -> None:
    """Raise `ValueError` with the reason if *job_id* cannot be a job's id.

    An id has 1 to 200 printable characters: no control or format characters, no surrogates, and no whitespace except
    spaces inside, since HTTP strips those at the ends. It is not `.` or `..`, which browsers resolve in a path even if
    they are escaped: `/jobs/./requeue` is the call for all jobs. It does not end with `~` and 32 hexadecimal digits,
    which mark the ids that `ledger_id` has escaped.
    """
    if not 1 <= len(job_id) <= MAX_ID_CHARACTERS:
        raise ValueError(f"must have 1 to {MAX_ID_CHARACTERS} characters")
    if not job_id.isprintable() or _REPLACEMENT in job_id:
        raise ValueError("must have printable characters only")
    if job_id != job_id.strip(" "):
        raise ValueError("must have no space at its ends")
    if job_id in (".", ".."):
        raise ValueError("must have more than dots: in a URL . and .. are no names")
    if _ESCAPED.search(job_id):
        raise ValueError("must have another end: ~ and 32 hexadecimal digits mark an id that was escaped")


def ledger_id(job_id: str) -> str:
    """Return the id under which the ledger keeps a job of any arq client.

    That is *job_id* itself if `check_id` accepts it. Otherwise it is cut and escaped, and ends with `~` and a digest of
    the whole id, so that different ids stay different.
    """
    try:
        check_id(job_id)
    except ValueError:
        digest = hashlib.sha256(job_id.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGEST_CHARACTERS]
        return f"{_readable(job_id)[: MAX_ID_CHARACTERS - _DIGEST_CHARACTERS - 1]}~{digest}"
    return job_id


def _readable(job_id: str) -> str:
    if job_id.isprintable() and _REPLACEMENT not in job_id:
        return job_id.strip(" ")
    return ascii(job_id[:MAX_ID_CHARACTERS])[1:-1].strip(" ")
