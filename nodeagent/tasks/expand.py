"""Fill in the placeholders of a template: `{{.Task.Slot}}`, `{{.Node.Hostname}}`. Pure.

They are known in values of the environment, the hostname, mounts' sources and targets, volumes' labels and driver
options, and nowhere else. Source: which names there are is Swarm's (template/context.go).
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
from msgspec import Struct

from shoal.api.errors import TerminalError
from shoal.api.objects import Task
from shoal.api.template import Mount, TaskTemplate

_PLACEHOLDER: Final = re.compile(r"(\s*\{\{-|\{\{)\s*(.*?)\s*(-\}\}\s*|\}\})", re.DOTALL)


class NodeFacts(Struct, frozen=True):
    """What placeholders may say of the node."""

    uid: str = ""
    hostname: str = ""
    os: str = ""
    architecture: str = ""


def expanded(task: Task, node: NodeFacts) -> TaskTemplate:
    """Return the task's template with every placeholder filled in; TerminalError names one that is not known."""
    template, values = task.spec.template, values_of(task, node)
    return msgspec.structs.replace(
        template,
        env=tuple(_in_value(variable, values) for variable in template.env),
        hostname=_fill(template.hostname, values),
        mounts=tuple(_in_mount(mount, values) for mount in template.mounts),
    )


def values_of(task: Task, node: NodeFacts) -> dict[str, str]:
    """Return what every placeholder stands for."""
    service = task.spec.service
    return {
        ".Service.ID": service.uid,
        ".Service.Name": service.name,
        ".Node.ID": node.uid,
        ".Node.Hostname": node.hostname,
        ".Node.Platform.OS": node.os,
        ".Node.Platform.Architecture": node.architecture,
        ".Task.ID": task.metadata.uid,
        ".Task.Name": task.metadata.name,
        ".Task.Slot": task.spec.slot,
    }


def _in_value(variable: str, values: dict[str, str]) -> str:
    name, equals, value = variable.partition("=")
    return f"{name}{equals}{_fill(value, values)}"


def _in_mount(mount: Mount, values: dict[str, str]) -> Mount:
    return msgspec.structs.replace(
        mount,
        source=_fill(mount.source, values),
        target=_fill(mount.target, values),
        labels={key: _fill(value, values) for key, value in mount.labels.items()},
        driver_opts={key: _fill(value, values) for key, value in mount.driver_opts.items()},
    )


def _fill(text: str, values: dict[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        if found[2] not in values:
            known = ", ".join(sorted(values))
            raise TerminalError(f"{text!r}: {found[2] or 'nothing'!r} is not a placeholder; known are {known}")
        return values[found[2]]

    return _PLACEHOLDER.sub(value, text) if "{{" in text else text
