"""arq's Worker with batched I/O. It knows arq and Redis, never SQL.

- `worker`   the subclass of arq's Worker
- `attempt`  one attempt at a job, and how it ends
- `intake`   runs jobs of declared types: from the claimed job to its outcome, and to the result that arq stores
- `options`  the settings that arq has no place for
"""
