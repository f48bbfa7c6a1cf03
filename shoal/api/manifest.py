"""YAML text to checked objects, with the line every field stands on. Pure.

Several documents per text; duplicate keys, unknown tags and runaway aliases are faults. Scalars are read as YAML 1.2
does, and more carefully: `yes`, `22:22` and `0444` are text, and a decimal keeps its spelling where text is wanted
(`VERSION: 1.10`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import yaml
from msgspec import Struct

from shoal.api.errors import Fault
from shoal.api.intake import examine
from shoal.api.names import below, parent_of
from shoal.api.objects import Object

MAX_TEXT_BYTES: Final = 2 << 20
"""Bytes of one text: room for the largest config. A manifest is written by people; larger ones are something else."""

MAX_DEPTH: Final = 60
"""Levels of nesting; the YAML library's own recursion has no bound."""

_TOO_DEEP: Final = f"is nested more than {MAX_DEPTH} levels deep"

MAX_NODES: Final = 100_000
"""Values in one text after aliases are followed: a bound for files that double themselves."""


class Text(Struct, frozen=True):
    """What stands in one file, or came through a pipe; `name` is for people."""

    name: str
    content: bytes


class Positions(Struct, frozen=True):
    """Where the fields of one document stand."""

    file: str
    lines: dict[str, int]

    def line_of(self, path: str) -> int:
        """Return the line (1-based) of a field, or of the nearest one around it that was written."""
        while path and path not in self.lines:
            path = parent_of(path)
        return self.lines.get(path, 0)

    def locate(self, fault: Fault, label: str = "") -> Fault:
        """Return a fault with its file, line and object filled in."""
        return Fault(fault.path, fault.message, self.file, self.line_of(fault.path), fault.object or label)


class Document(Struct, frozen=True):
    """A valid object and where it was written."""

    obj: Object
    positions: Positions

    @property
    def label(self) -> str:
        return f"{self.obj.KIND} {self.obj.metadata.name}"


class Reading(Struct, frozen=True):
    """All documents of all texts, and everything wrong with them; with faults, nothing may be written."""

    documents: tuple[Document, ...]
    faults: tuple[Fault, ...]


def read(texts: Iterable[Text]) -> Reading:
    """Read every text to its end; a fault in one hides nothing in another."""
    documents: list[Document] = []
    faults: list[Fault] = []
    for text in texts:
        for found in _read_text(text):
            if isinstance(found, Fault):
                faults.append(found)
            else:
                documents.append(found)
    return Reading(tuple(documents), tuple(faults) + tuple(_doubles(documents)))


def _read_text(text: Text) -> Iterator[Document | Fault]:
    unreadable = _unreadable(text)
    if unreadable:
        yield Fault("", unreadable, text.name)
        return
    count = 0
    for plain, positions in _plain_documents(text):
        if isinstance(plain, Fault):
            yield plain
        elif plain is not None:
            yield from _judge(plain, positions)
        else:
            continue
        count += 1
    if count == 0:
        yield Fault("", "is empty; expected at least one object, such as a Service", text.name)


def _unreadable(text: Text) -> str:
    """Return why a text is not worth parsing, "" if it is."""
    if len(text.content) > MAX_TEXT_BYTES:
        return f"is {len(text.content) / 1e6:.1f} MB long; a manifest may have at most {MAX_TEXT_BYTES >> 20} MiB"
    if b"\0" in text.content:
        return "is not text (it holds NUL bytes); expected a YAML manifest"
    try:
        decoded = text.content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text.content.count(b"\n", 0, error.start) + 1
        return f"is not UTF-8 text: byte 0x{text.content[error.start]:02x} in line {line}"
    bad = re.search(r"[\x01-\x08\x0b\x0c\x0e-\x1f]", decoded)
    if bad:
        line = decoded.count("\n", 0, bad.start()) + 1
        return f"is not text (control character 0x{ord(bad[0]):02x} in line {line}); expected a YAML manifest"
    return ""


def _judge(plain: Any, positions: Positions) -> Iterator[Document | Fault]:
    if isinstance(plain, dict) and "services" in plain and "kind" not in plain:
        yield positions.locate(
            Fault(
                "services",
                "this is a Compose file; stacks are not available yet in this version, expected objects with apiVersion"
                " and kind",
            )
        )
        return
    found = examine(plain)
    label = _label(plain)
    for fault in found.faults:
        yield positions.locate(fault, label)
    if found.obj is not None:
        yield Document(found.obj, positions)


def _label(plain: Any) -> str:
    """Name an object that may be no object."""
    kind = plain.get("kind") if isinstance(plain, dict) else None
    meta = plain.get("metadata") if isinstance(plain, dict) else None
    name = meta.get("name") if isinstance(meta, dict) else None
    return f"{kind} {name}" if isinstance(kind, str) and isinstance(name, str) else ""


def _doubles(documents: list[Document]) -> Iterator[Fault]:
    first: dict[tuple[str, str, str], Document] = {}
    for document in documents:
        meta = document.obj.metadata
        before = first.setdefault((document.obj.KIND, meta.name, meta.uid), document)
        if before is not document:
            where = f"{before.positions.file}:{before.positions.line_of('metadata.name')}"
            yield document.positions.locate(
                Fault("metadata.name", f"{document.label} is described twice, first at {where}"), document.label
            )


_TAG: Final = "tag:yaml.org,2002:"
_SCALARS: Final = tuple(
    (f"{_TAG}{tag}", re.compile(pattern), list(first))
    for tag, pattern, first in (
        ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
        ("int", r"^-?(?:0|[1-9][0-9]*)$", "-0123456789"),
        ("float", r"^-?(?:0|[1-9][0-9]*)\.[0-9]+$", "-0123456789"),
        ("merge", r"^<<$", "<"),
        ("null", r"^(?:~|null|Null|NULL|)$", ("~", "n", "N", "")),
    )
)


class Decimal(float):
    """A number that remembers how it was written."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Decimal:
        self = super().__new__(cls, text)
        self.text = text
        return self

    def __str__(self) -> str:
        return self.text


class _Loader(yaml.CSafeLoader):
    """Composes nodes with YAML 1.2's idea of what a plain scalar is."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (PyYAML's name, declared there)
        char: [(tag, pattern) for tag, pattern, first in _SCALARS if char in first]
        for char in {char for _, _, first in _SCALARS for char in first}
    }


def _plain_documents(text: Text) -> Iterator[tuple[Any, Positions]]:
    """Yield each document as plain data with its positions, or a Fault in the data's place."""
    nowhere = Positions(text.name, {})
    try:
        _check_depth(text)
        for root in yaml.compose_all(text.content.decode("utf-8-sig"), Loader=_Loader):
            if root is None:
                yield None, nowhere
                continue
            builder = _Builder(text.name)
            try:
                plain = builder.build(root, "")
            except _Refused as refused:
                yield refused.fault, nowhere
                continue
            yield from ((fault, nowhere) for fault in builder.faults)
            if not builder.faults:
                yield plain, Positions(text.name, builder.lines)
    except _Refused as refused:
        yield refused.fault, nowhere
    except yaml.YAMLError as error:
        yield _syntax_fault(error, text), nowhere


def _check_depth(text: Text) -> None:
    """Refuse a text nested too deep before anything recurses into it."""
    depth = 0
    try:
        for event in yaml.parse(text.content.decode("utf-8-sig"), Loader=_Loader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    line = event.start_mark.line + 1 if event.start_mark else 0
                    raise _Refused(Fault("", _TOO_DEEP, text.name, line))
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    except yaml.YAMLError:
        return


def _syntax_fault(error: yaml.YAMLError, text: Text) -> Fault:
    mark = getattr(error, "problem_mark", None)
    line = mark.line + 1 if mark is not None else 0
    lines = text.content.decode("utf-8-sig").splitlines()
    found = lines[line - 1] if 0 < line <= len(lines) else ""
    if "\t" in found[: len(found) - len(found.lstrip())]:
        return Fault("", "is not YAML: the line is indented with a tab; YAML wants spaces", text.name, line)
    context, problem = getattr(error, "context", None), getattr(error, "problem", None) or str(error)
    if "nesting depth" in problem:  # the parser's own limit, which may be lower than ours
        return Fault("", _TOO_DEEP, text.name, line)
    seen = f"; found {found.strip()[:60]!r}" if found.strip() else ""
    return Fault("", f"is not YAML: {problem}{f' {context}' if context else ''}{seen}", text.name, line)


class _Refused(Exception):
    def __init__(self, fault: Fault) -> None:
        self.fault = fault


class _Builder:
    """Turns one document's nodes into plain data and notes the line of every path."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[str, int] = {}
        self.faults: list[Fault] = []
        self._open: set[int] = set()
        self._count = 0

    def build(self, node: yaml.Node, path: str, line: int = 0) -> Any:
        """Return the data of a node; `line` is its key's, which says more than its value's."""
        self._count += 1
        at = line or node.start_mark.line + 1
        if self._count > MAX_NODES:
            raise _Refused(Fault(path, f"has more than {MAX_NODES} values once aliases are followed", self.file, at))
        if id(node) in self._open:
            raise _Refused(Fault(path, "holds itself through an alias", self.file, at))
        self.lines.setdefault(path, at)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path, at)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.build(item, f"{path}[{index}]") for index, item in enumerate(node.value)]
            return self._mapping(node, path)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.Node, path: str) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == f"{_TAG}merge":
                for source in value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]:
                    inherited = self.build(source, path, line)
                    merged = {**(inherited if isinstance(inherited, dict) else {}), **merged}
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self.faults.append(Fault(path, "a key is a list or a mapping; expected text", self.file, line))
                continue
            key = self._scalar(key_node, path, line)
            here = below(path, str(key))
            if key in found:
                self.faults.append(
                    Fault(here, f"is given twice, first in line {self.lines.get(here, 0)}", self.file, line)
                )
            self.lines.pop(here, None)
            found[key] = self.build(value_node, here, line)
        return {**merged, **found}

    def _scalar(self, node: yaml.ScalarNode, path: str, line: int) -> Any:
        text, tag = node.value, node.tag.removeprefix(_TAG)
        match tag:
            case "str":
                return text
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return int(text)
            case "float":
                return Decimal(text)
        self.faults.append(Fault(path, f"has the tag {node.tag!r}; tags are not understood here", self.file, line))
        return text
