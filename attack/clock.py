"""The clock of all budgets: processor time of this process.

What an attack reaches within its budget then depends on the attack and the processor, not on what else the machine is
doing; on an idle core with one thread it equals wall time.
"""

from __future__ import annotations

import time

now_s = time.process_time
"""Processor seconds of this process so far."""
