"""Doctor: is every rank fit for the run? Each is examined, all are compared, and those at fault are named.

1. Every rank makes the same checks in the same order. An error in a check becomes a finding of its rank, so that no
   rank leaves the others waiting in a collective. Every wait has an end.
2. All facts go to all ranks, each of which judges them by the same pure functions: all end with the same exit code.
3. Rank 0 shows the table.
"""

from __future__ import annotations

from cached_ds.doctor.checks.context import Limits, add_flags
from cached_ds.doctor.examination import Examination, examine

__all__ = ["Examination", "Limits", "add_flags", "examine"]
