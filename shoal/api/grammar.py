"""The little languages inside specs: image references, placement constraints, placeholders. Pure.

Source: the grammar of references is distribution/reference's, that of constraints SwarmKit's (manager/constraint), and
so are the placeholders' names (template/context.go).
"""

from __future__ import annotations

import re

from msgspec import Struct

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"

_WORD = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_HOST_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_HOST_PART}(?:\.{_HOST_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_PATH = re.compile(rf"{_WORD}(?:/{_WORD})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}")
_IMAGE_ID = re.compile(r"(?:sha256:)?[0-9a-f]{64}")
_MAX_REPOSITORY = 255
"""Characters in domain and path together."""


class Image(Struct, frozen=True):
    """A parsed reference. `path` is an image id, and everything else empty, if the image was named by its id."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def is_id(self) -> bool:
        return not self.domain

    @property
    def repository(self) -> str:
        return f"{self.domain}/{self.path}" if self.domain else self.path


def parse_image(text: str) -> Image:
    """Read `[domain/]path[:tag][@digest]`, or an image id. ValueError says what was expected.

    `nginx` is docker.io/library/nginx, as Docker has it; a missing tag stays missing.
    """
    if _IMAGE_ID.fullmatch(text):
        return Image("", text)
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise ValueError(f"found the digest {digest!r} in image {text!r}, expected one such as sha256:9f86d081…")
    rest, tag = _split_tag(rest)
    if tag is not None and not _TAG.fullmatch(tag):
        raise ValueError(
            f"found the tag {tag!r} in image {text!r}, expected letters, digits, '_', '.' and '-', at most 128"
        )
    domain, path = _split_domain(rest)
    if not _DOMAIN.fullmatch(domain):
        raise ValueError(f"found the registry {domain!r} in image {text!r}, expected host or host:port")
    if not _PATH.fullmatch(path):
        why = " (the name is in lower case)" if _PATH.fullmatch(path.lower()) else ""
        raise ValueError(f"found {text!r}, expected an image reference such as nginx:1.27 or host:5000/team/app:2{why}")
    if len(domain) + 1 + len(path) > _MAX_REPOSITORY:
        raise ValueError(f"the image's name is longer than {_MAX_REPOSITORY} characters: {text[:60]!r}…")
    return Image(domain, path, tag or "", digest)


def _split_tag(text: str) -> tuple[str, str | None]:
    """A colon after the last slash begins the tag; before it, a port."""
    colon = text.rfind(":")
    return (text, None) if colon <= text.rfind("/") else (text[:colon], text[colon + 1 :])


def _split_domain(text: str) -> tuple[str, str]:
    """The first part is a registry if it looks like a host: it has a dot or colon, is localhost, or has capitals."""
    first, slash, rest = text.partition("/")
    if slash and (any(mark in first for mark in ".:") or first == "localhost" or first != first.lower()):
        domain, path = first, rest
    else:
        domain, path = DEFAULT_DOMAIN, text
    if domain == "index.docker.io":
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = f"library/{path}"
    return domain, path


_OPERATOR = re.compile(r"==|!=")
_KEY = re.compile(r"[a-z_][a-z0-9\-_.]+", re.IGNORECASE)
_VALUE = re.compile(r"[a-z0-9:\-_\s.*()?+\[\]\\^$|/]+", re.IGNORECASE)

CONSTRAINT_KEYS = (
    "node.id",
    "node.hostname",
    "node.ip",
    "node.role",
    "node.platform.os",
    "node.platform.arch",
    "node.labels.",
    "engine.labels.",
)
"""What a constraint can ask about; those with a dot at the end are followed by a label's key."""


class Constraint(Struct, frozen=True):
    """`key == value`, or `!=` where `equal` is false."""

    key: str
    equal: bool
    value: str

    def __str__(self) -> str:
        return f"{self.key} {'==' if self.equal else '!='} {self.value}"


def parse_constraint(text: str) -> Constraint:
    """Read `node.labels.zone == a`. ValueError says what was expected."""
    operators = _OPERATOR.findall(text)
    if len(operators) != 1:
        raise ValueError(f"found {text!r}, expected one operator from ==, !=, as in node.role == worker")
    key, value = (part.strip() for part in text.split(operators[0]))
    if not _KEY.fullmatch(key):
        raise ValueError(f"found the key {key!r} in {text!r}, expected one such as node.labels.zone")
    if not _VALUE.fullmatch(value):
        raise ValueError(f"found the value {value!r} in {text!r}, expected letters, digits and :-_.*()?+[]\\^$|/")
    return Constraint(key, operators[0] == "==", value)


def is_known_key(key: str) -> bool:
    """Say whether any node can ever answer a constraint's key."""
    folded = key.lower()
    return any(folded.startswith(k) and folded != k if k.endswith(".") else folded == k for k in CONSTRAINT_KEYS)


PLACEHOLDERS = (
    ".Service.ID",
    ".Service.Name",
    ".Service.Labels",
    ".Node.ID",
    ".Node.Hostname",
    ".Node.Platform.OS",
    ".Node.Platform.Architecture",
    ".Task.ID",
    ".Task.Name",
    ".Task.Slot",
)
"""What `{{…}}` can stand for in values of the environment, the hostname and mounts; an agent fills them in."""

LABEL = ".Service.Labels.<key>"
"""How one label of the service is asked for; a key with dots: `index .Service.Labels "a.b"`."""

_PLACEHOLDER = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_LABEL = re.compile(r'\.Service\.Labels\.(\w+)|index\s+\.Service\.Labels\s+(?:"([^"\\]*)"|`([^`]*)`)')


def label_in(placeholder: str) -> str | None:
    """Return the key of the label that a placeholder asks for, None if it asks for something else."""
    found = _LABEL.fullmatch(placeholder)
    return next(group for group in found.groups() if group is not None) if found is not None else None


def unknown_placeholders(text: str) -> list[str]:
    """Return the placeholders in a text that nobody can fill in: `{{.Task.Slto}}` → [".Task.Slto"]."""
    names = _PLACEHOLDER.findall(text) if "{{" in text else []
    return [name for name in names if name not in PLACEHOLDERS and label_in(name) is None]
