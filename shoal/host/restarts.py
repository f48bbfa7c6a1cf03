"""How long to wait before a process that ended is started again. Pure."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_S = 0.1
"""A single crash shall hardly be noticed."""

LONGEST_S = 10.0

HEALTHY_S = 10.0
"""A process that was ready for so long begins anew with FIRST_S when it ends."""


@dataclass(frozen=True)
class Restarts:
    """`total` since the daemon began, for people; `in_a_row` decides the wait."""

    total: int = 0
    in_a_row: int = 0

    def after_exit(self, ready_for_s: float) -> Restarts:
        """Count an end; `ready_for_s` = how long the process had been ready, 0 if it never was."""
        return Restarts(self.total + 1, 1 if ready_for_s >= HEALTHY_S else self.in_a_row + 1)

    @property
    def wait_s(self) -> float:
        """0.1, 0.2, 0.4 … at most 10 seconds; 0 before the first end."""
        return min(FIRST_S * 2.0 ** min(self.in_a_row - 1, 30), LONGEST_S) if self.in_a_row else 0.0
