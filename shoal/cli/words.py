"""What people call kinds: singular, plural, short, in any case. Pure."""

from __future__ import annotations

from typing import Final

from shoal.api.errors import InvalidError
from shoal.api.names import hint
from shoal.api.objects import KINDS, Object, Presence

_SHORT: Final = {
    "svc": "Service", "services": "Service", "no": "Node", "ps": "Task", "po": "Task", "net": "Network",
    "ro": "Rollout", "rev": "Revision", "ep": "Endpoint", "ev": "Event", "be": "Backend", "cm": "Config",
}  # fmt: skip


def _words() -> dict[str, type[Object]]:
    words = {short: KINDS[kind] for short, kind in _SHORT.items()}
    for name, kind in KINDS.items():
        if kind is not Presence:
            words |= {name.lower(): kind, kind.PLURAL: kind}
    return words


WORDS: Final = _words()
"""Every word → its kind."""


def kind_of(word: str) -> type[Object]:
    """Return the kind a word means; InvalidError names the words there are."""
    kind = WORDS.get(word.lower())
    if kind is None:
        known = ", ".join(sorted({kind.PLURAL for kind in WORDS.values()}))
        raise InvalidError(f"there is no kind {word!r}{hint(word, WORDS)}; known are {known}")
    return kind


def targets(words: tuple[str, ...]) -> list[tuple[type[Object], str]]:
    """Read `KIND NAME…` or `KIND/NAME…` into kinds and names; a name "" stands for all of a kind."""
    if not words:
        raise InvalidError("expected a kind, such as services, or KIND/NAME")
    if "/" in words[0]:
        split = [word.partition("/") for word in words]
        wrong = next((kind for kind, _, name in split if not name), None)
        if wrong is not None:
            raise InvalidError(f"expected KIND/NAME, found {wrong!r}")
        return [(kind_of(kind), name) for kind, _, name in split]
    try:
        kinds = [kind_of(word) for word in words[0].split(",")]
    except InvalidError as error:
        if len(words) > 1:
            raise
        raise InvalidError(f"{error}; a name needs its kind, as in service/{words[0]}") from None
    if len(words) == 1:
        return [(kind, "") for kind in kinds]
    return [(kind, _name_of(kind, name)) for kind in kinds for name in words[1:]]


def _name_of(kind: type[Object], word: str) -> str:
    """Read a name, which may say its kind once more: `service service/web`."""
    said, is_said, name = word.partition("/")
    if is_said and (not name or kind_of(said) is not kind):
        raise InvalidError(f"expected the name of a {kind.KIND.lower()}, found {word!r}")
    return name if is_said else word
