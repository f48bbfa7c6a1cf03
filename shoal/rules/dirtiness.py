"""Whether a task has to be replaced because its service changed. Pure.

Only the template counts: replicas, labels of the service and the update settings restart nothing.
Source: SwarmKit's IsTaskDirty (manager/orchestrator/task.go).
"""

from __future__ import annotations

import msgspec

from shoal.api.objects import Node, ServiceSpec, Task
from shoal.api.template import TaskTemplate
from shoal.rules.constraints import matches


def template_of(spec: ServiceSpec) -> TaskTemplate:
    """Return the part of a service's spec that its tasks are made from."""
    return TaskTemplate(**{name: getattr(spec, name) for name in TaskTemplate.__struct_fields__})


def is_dirty(task: Task, revision: str, template: TaskTemplate, node: Node | None) -> bool:
    """Say whether the task differs from what revision `revision`, with `template`, asks for.

    A difference in nothing but the placement leaves a task clean whose node still satisfies the constraints.
    """
    if task.spec.revision == revision or task.spec.template == template:
        return False
    placed_alike = msgspec.structs.replace(task.spec.template, placement=template.placement)
    if placed_alike != template or node is None:
        return True
    return template.placement is not None and not matches(template.placement.constraints, node)
