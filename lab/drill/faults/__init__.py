"""The faults that the drill injects. Each breaks one thing, waits, and repairs it.

What happens before and after a fault is the task of `lab.drill.run`.
"""

from lab.drill.faults import crashes, disk, launched, postgres, redis, transactions, workers
from lab.drill.faults.breaking import Fault

_PARTS = (workers, crashes, launched, postgres, transactions, disk, redis)
FAULTS: dict[str, Fault] = {fault.name: fault for part in _PARTS for fault in part.FAULTS}
