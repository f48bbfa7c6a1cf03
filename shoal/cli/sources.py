"""Manifests from files, directories and standard input, and faults told back with their lines."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from shoal.api.errors import Fault, InvalidError
from shoal.api.manifest import MAX_TEXT_BYTES, Document, Text, read

SUFFIXES: Final = (".yaml", ".yml", ".json")
"""What is read from a directory; a file that is named is read whatever it is called."""


def documents_from(files: Iterable[str]) -> tuple[Document, ...]:
    """Read all manifests; InvalidError with every fault of all of them."""
    names = list(files)
    if not names:
        raise InvalidError("no manifest given: name files, directories or - with -f")
    texts: list[Text] = []
    faults: list[Fault] = []
    for name in names:
        found = list(_texts(name))
        texts += [one for one in found if isinstance(one, Text)]
        faults += [one for one in found if isinstance(one, Fault)]
    reading = read(texts)
    faults += reading.faults
    if faults:
        raise InvalidError(faults)
    return reading.documents


def _texts(name: str) -> Iterator[Text | Fault]:
    if name == "-":
        yield Text("standard input", sys.stdin.buffer.read(MAX_TEXT_BYTES + 1))
        return
    path = Path(name)
    if not path.is_dir():
        yield _text(path)
        return
    found = sorted(entry for entry in path.iterdir() if entry.suffix in SUFFIXES and entry.is_file())
    if not found:
        yield Fault("", f"holds no manifest ({', '.join(SUFFIXES)})", name)
    yield from map(_text, found)


def _text(path: Path) -> Text | Fault:
    try:
        with path.open("rb") as file:
            return Text(str(path), file.read(2 * MAX_TEXT_BYTES + 1))
    except FileNotFoundError:
        return Fault("", "does not exist", str(path))
    except OSError as error:
        return Fault("", f"cannot be read: {(error.strerror or str(error)).lower()}", str(path))


def located(error: InvalidError, documents: Iterable[Document]) -> InvalidError:
    """Return the API server's faults with the file and line each is about."""
    by_label = {_label(document): document for document in documents}
    faults = []
    for fault in error.faults:
        document = by_label.get(fault.object.lower())
        if document is None:
            faults.append(fault)
        else:
            faults.append(msgspec.structs.replace(document.positions.locate(fault), object=document.label))
    return InvalidError(faults)


def _label(document: Document) -> str:
    return f"{document.obj.KIND}/{document.obj.metadata.name}".lower()
