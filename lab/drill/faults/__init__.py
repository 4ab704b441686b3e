"""The faults: each breaks one thing, waits, and mends it; the run before and after it is none of its business."""

from lab.drill.faults import crashes, disk, launched, postgres, redis, transactions, workers
from lab.drill.faults.breaking import Fault

_PARTS = (workers, crashes, launched, postgres, transactions, disk, redis)
FAULTS: dict[str, Fault] = {fault.name: fault for part in _PARTS for fault in part.FAULTS}
