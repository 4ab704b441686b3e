"""arq's Worker with batched I/O. It knows arq and Redis, never SQL.

- `worker`   the subclass of arq's Worker
- `attempt`  one attempt at a job, and how it ends
- `intake`   from arq's call of a function to a delivery, and from an outcome to the result that arq stores
"""
