"""The faults: each breaks one thing, waits, and mends it; the run before and after it is none of its business."""

from worker.drill.faults import postgres, redis, workers
from worker.drill.faults.breaking import Fault

FAULTS: dict[str, Fault] = {fault.name: fault for fault in (*workers.FAULTS, *postgres.FAULTS, *redis.FAULTS)}
