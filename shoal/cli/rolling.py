"""How far a rollout is, in a few words: what is done, what is under way, what failed, what time is left. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from shoal.api.codec import dec_hook
from shoal.api.objects import Update
from shoal.api.states import RolloutState
from shoal.cli.columns import at
from shoal.cli.text import moment, plural
from shoal.rules.slots import IN_PROGRESS
from shoal.rules.waiting import NOTHING, time_left

Plain = dict[str, Any]

_NAMED: Final = 4
"""Slots of a batch that are named; the others are counted."""


def batch(service: Plain) -> str:
    """Spell how many slots are done, which are being replaced and how many failed; "" where nothing is under way."""
    status = at(service, "status.rollout", {})
    dirty, granted, watched = (status.get(key) or [] for key in ("dirty", "granted", "watched"))
    if status.get("state") not in IN_PROGRESS or not dirty:
        return ""
    busy = [slot for slot, one in dict(watched).items() if not one.get("settledAt")]
    done = len([slot for slot in dirty if slot in granted and slot not in busy])
    word = "updated" if status.get("state") == RolloutState.UPDATING else "rolled back"
    parts = [f"{word} {done}/{len(dirty)}"]
    if busy:
        more = f" and {len(busy) - _NAMED} more" if len(busy) > _NAMED else ""
        parts.append(f"now {'slots' if len(busy) > 1 else 'slot'} {', '.join(s[:12] for s in busy[:_NAMED])}{more}")
    if status.get("failures"):
        parts.append(plural(len(status["failures"]), "failure"))
    return ", ".join(parts)


def time_to_go(service: Plain, now: datetime) -> str:
    """Spell what time is left until something must have happened: a start, the next batch, the end; "" for none."""
    status = at(service, "status.rollout", {})
    watched = list((status.get("watched") or {}).values())
    if status.get("state") not in IN_PROGRESS or not watched:
        return ""
    settings = _settings(service, status["state"])
    busy = [one for one in watched if not one.get("settledAt")]
    if busy:
        left = _left(busy, "grantedAt", settings.deadline.seconds, now)
        return f"{_seconds(left)} left to start" if settings.deadline else ""
    is_last = set(status.get("dirty") or []) <= set(status.get("granted") or [])
    if not is_last:
        return f"next in {_seconds(_left(watched, 'settledAt', settings.delay.seconds, now))}"
    over = max(settings.monitor.seconds, settings.delay.seconds)
    return f"monitored for {_seconds(_left(watched, 'settledAt', over, now))}"


def _settings(service: Plain, state: str) -> Update:
    given = at(service, "spec.update" if state == RolloutState.UPDATING else "spec.rollback", None)
    return msgspec.convert(given, Update, dec_hook=dec_hook) if given else Update()


def _left(watched: list[Plain], since: str, seconds: float, now: datetime) -> timedelta:
    return max((time_left(moment(one.get(since)), timedelta(seconds=seconds), now) for one in watched), default=NOTHING)


def _seconds(left: timedelta) -> str:
    whole = round(left.total_seconds())
    return f"{whole // 60}m{whole % 60:02}s" if whole >= 60 else f"{whole}s"
