"""How long to wait still, when the beginning was stamped by another host's clock. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

NOTHING: Final = timedelta(0)


def time_left(since: datetime | None, interval: timedelta, now: datetime) -> timedelta:
    """Return what is left of `interval` since a stored instant: never less than nothing, never more than all of it.

    Worked: 5 s since 12:00:00 leave 2 s at 12:00:03; 5 s at 11:59:00, if whoever stamped it is a minute ahead of us;
    and nothing at 12:00:06. An instant that was never stamped leaves nothing.
    """
    if since is None:
        return NOTHING
    return min(max(since + interval - now, NOTHING), max(interval, NOTHING))
