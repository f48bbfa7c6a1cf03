"""Fill in the placeholders of a template: `{{.Task.Slot}}`, `{{.Node.Hostname}}`. Pure.

They are known in values of the environment, the hostname, mounts' sources and targets, volumes' labels and driver
options, and nowhere else. Source: which names there are is Swarm's (template/context.go).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from msgspec import Struct

from shoal.api.errors import TerminalError
from shoal.api.grammar import LABEL, label_in
from shoal.api.objects import Node, Task
from shoal.api.template import Mount, TaskTemplate

_PLACEHOLDER: Final = re.compile(r"(\s*\{\{-|\{\{)\s*(.*?)\s*(-\}\}\s*|\}\})", re.DOTALL)


class NodeFacts(Struct, frozen=True):
    """What placeholders may say of the node."""

    uid: str = ""
    hostname: str = ""
    os: str = ""
    architecture: str = ""

    @staticmethod
    def of(node: Node) -> NodeFacts:
        about = node.status.description
        hostname = about.hostname or node.metadata.name
        return NodeFacts(node.metadata.uid, hostname, about.os, about.architecture)


def expanded(task: Task, node: NodeFacts) -> TaskTemplate:
    """Return the task's template with every placeholder filled in; TerminalError names one that is not known."""
    template, fill = task.spec.template, _filler(task, node)
    return msgspec.structs.replace(
        template,
        env=tuple(_in_value(variable, fill) for variable in template.env),
        hostname=fill(template.hostname),
        mounts=tuple(_in_mount(mount, fill) for mount in template.mounts),
    )


def hostname_of(task: Task, node: NodeFacts) -> str:
    """Return the hostname that a task's template asks for, "" for none; TerminalError as for `expanded`."""
    return _filler(task, node)(task.spec.template.hostname)


def _filler(task: Task, node: NodeFacts) -> Callable[[str], str]:
    values, labels = values_of(task, node), task.metadata.labels

    def fill(text: str) -> str:
        return _PLACEHOLDER.sub(lambda found: _value(text, found[2], values, labels), text) if "{{" in text else text

    return fill


def values_of(task: Task, node: NodeFacts) -> dict[str, str]:
    """Return what every placeholder stands for."""
    service = task.spec.service
    return {
        ".Service.ID": service.uid,
        ".Service.Name": service.name,
        ".Service.Labels": f"map[{' '.join(f'{key}:{text}' for key, text in sorted(task.metadata.labels.items()))}]",
        ".Node.ID": node.uid,
        ".Node.Hostname": node.hostname,
        ".Node.Platform.OS": node.os,
        ".Node.Platform.Architecture": node.architecture,
        ".Task.ID": task.metadata.uid,
        ".Task.Name": task.metadata.name,
        ".Task.Slot": task.spec.slot,
    }


def _in_value(variable: str, fill: Callable[[str], str]) -> str:
    name, equals, value = variable.partition("=")
    return f"{name}{equals}{fill(value)}"


def _in_mount(mount: Mount, fill: Callable[[str], str]) -> Mount:
    return msgspec.structs.replace(
        mount,
        source=fill(mount.source),
        target=fill(mount.target),
        labels={key: fill(value) for key, value in mount.labels.items()},
        driver_opts={key: fill(value) for key, value in mount.driver_opts.items()},
    )


def _value(text: str, name: str, values: Mapping[str, str], labels: Mapping[str, str]) -> str:
    if (label := label_in(name)) is not None:
        return labels.get(label, "")
    if name not in values:
        known = ", ".join((*sorted(values), LABEL))
        raise TerminalError(f"{text!r}: {name or 'nothing'!r} is not a placeholder; known are {known}")
    return values[name]
