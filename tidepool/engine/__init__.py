"""The worker's engine: arq's Worker with batched Redis I/O. It imports arq and the queue in Redis, but has no SQL.

- `worker`       the subclass of arq's Worker
- `attempt`      one attempt at a job, and how it ends
- `decoding`     decodes jobs
- `leaving`      leaves jobs that this worker does not understand to other workers
- `intake`       runs jobs of declared types: from the claimed job to its outcome, and to the result that arq stores
- `concurrency`  limits how many jobs of a function run at a time
- `threads`      runs blocking functions in threads
- `takeover`     makes arq build our Worker
- `options`      settings of the engine that arq does not have
"""
