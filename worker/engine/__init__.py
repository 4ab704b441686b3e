"""arq's side of the worker: how jobs come out of Redis and outcomes go back.

Knows arq and Redis, never SQL. `worker.py` is arq's Worker with what the service needs of it;
`intake.py` turns arq's calls into deliveries and outcomes into arq's results.
"""
