"""The worker's engine: arq's Worker with batched Redis I/O. It imports arq and the queue in Redis, but has no SQL.

- `worker`       the subclass of arq's Worker
- `attempt`      one attempt at a job, and how it ends
- `admission`    decides whether a job can be run: decodes it, and validates its arguments
- `leaving`      leaves jobs that this worker does not understand to other workers
- `concurrency`  limits how many jobs of a function run at a time
- `threads`      runs blocking functions in threads
- `takeover`     makes arq build our Worker
- `options`      settings of the engine that arq does not have, and the declared job types
"""
