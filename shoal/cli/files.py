"""`shoal secret` and `shoal config`: what containers get as files, made from files."""

from __future__ import annotations

import base64
import binascii
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from shoal.api.codec import to_builtins
from shoal.api.errors import InvalidError
from shoal.api.intake import read_object
from shoal.api.meta import API_VERSION
from shoal.api.objects import Config, Object, Secret
from shoal.api.validation import MAX_CONFIG_BYTES
from shoal.cli.client import Client, Plain, run
from shoal.cli.delete import delete
from shoal.cli.get import get
from shoal.cli.options import api_of
from shoal.cli.text import as_yaml


def _label(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if not key:
        raise InvalidError(f"expected KEY=VALUE as a label, found {text!r}")
    return key, value


def _read(source: str) -> bytes:
    """Read a file, or standard input, up to a little more than may be stored; InvalidError if it cannot be."""
    try:
        if source == "-":
            return sys.stdin.buffer.read(MAX_CONFIG_BYTES + 1)
        with Path(source).open("rb") as file:
            return file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise InvalidError(f"{source} cannot be read: {(error.strerror or str(error)).lower()}") from error


def _create(kind: type[Object]) -> click.Command:
    @click.command(help=f"Make a {kind.KIND.lower()} from a file, or from standard input.")
    @click.argument("name")
    @click.argument("file", metavar="FILE|-")
    @click.option("--label", "-l", "labels", multiple=True, metavar="KEY=VALUE", help="A label; may be repeated.")
    @click.option(
        "--templating", type=click.Choice(["golang"]), help="Fill in {{.Service.Name}} and the like for each task."
    )
    @click.pass_context
    def create(ctx: click.Context, name: str, file: str, labels: tuple[str, ...], templating: str | None) -> None:
        spec: dict[str, Any] = {"data": base64.b64encode(_read(file)).decode()}
        if templating:
            spec["templating"] = templating
        metadata = {"name": name, "labels": dict(map(_label, labels))}
        obj = read_object({"apiVersion": API_VERSION, "kind": kind.KIND, "metadata": metadata, "spec": spec})

        async def work(client: Client) -> None:
            made = await client.call("POST", kind.PLURAL, to_builtins(obj))
            click.echo(f"{kind.KIND.lower()}/{made['metadata']['name']} created")

        run(api_of(ctx), work)

    return create


def _inspect(kind: type[Object]) -> click.Command:
    @click.command(help=f"Show {kind.PLURAL} as YAML{'; never their data' if kind is Secret else ''}.")
    @click.argument("names", nargs=-1, required=True, metavar="NAME…")
    @click.pass_context
    def inspect(ctx: click.Context, names: tuple[str, ...]) -> None:
        async def work(client: Client) -> None:
            click.echo(as_yaml([readable(await client.get(kind.PLURAL, name)) for name in names]))

        run(api_of(ctx), work)

    return inspect


def readable(obj: Plain) -> Plain:
    """Return a config with its data as text, where it is text; it can be applied so. Pure."""
    spec = dict(obj.get("spec") or {})
    try:
        text = base64.b64decode(spec["data"], validate=True).decode()
    except (KeyError, ValueError, binascii.Error):
        return obj
    if any(ord(char) < 32 and char not in "\n\t" for char in text):
        return obj
    return {**obj, "spec": {**{key: value for key, value in spec.items() if key != "data"}, "text": text}}


def _list(kind: type[Object]) -> click.Command:
    @click.command(help=f"List {kind.PLURAL}.")
    @click.option("--output", "-o", type=click.Choice(["wide", "json", "yaml", "name"]))
    @click.option("--selector", "-l", "labels", default="", help="Labels, as tier=front,env!=dev.")
    @click.pass_context
    def ls(ctx: click.Context, output: str | None, labels: str) -> int:
        code: int = ctx.invoke(
            get, words=(kind.PLURAL,), output=output, labels=labels, fields="", service="", sort_by=""
        )
        return code

    return ls


def _remove(kind: type[Object]) -> click.Command:
    @click.command(help=f"Remove {kind.PLURAL} that no service uses.")
    @click.argument("names", nargs=-1, required=True, metavar="NAME…")
    @click.pass_context
    def rm(ctx: click.Context, names: Sequence[str]) -> int:
        code: int = ctx.invoke(delete, words=(kind.KIND.lower(), *names), files=())
        return code

    return rm


def _group(kind: type[Object], text: str) -> click.Group:
    group = click.Group(kind.KIND.lower(), help=text)
    for name, command in (("create", _create), ("ls", _list), ("inspect", _inspect), ("rm", _remove)):
        group.add_command(command(kind), name)
    return group


secret = _group(
    Secret,
    "Secrets: passwords, keys and the like, which containers find as files below /run/secrets.\n\n"
    "They lie encrypted in the store and nobody can read them back.",
)
config = _group(Config, "Configs: files that containers find where their service says. They can be read back.")
