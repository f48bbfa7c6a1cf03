"""When a task differs from what its service now asks for."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from shoal.api.objects import Node, ServiceSpec, Update
from shoal.api.states import Mode
from shoal.api.template import Placement, Preference, TaskTemplate
from shoal.machinery.testkit import make_node, make_service, make_task
from shoal.rules.dirtiness import is_dirty, template_of

WEB = make_service("web", image="nginx:1", placement=Placement(constraints=("node.labels.zone == a",)))
OLD = template_of(WEB.spec)
FITS, UNFIT = make_node("n1", labels={"zone": "b"}), make_node("n2", labels={"zone": "c"})
MOVED = Placement(constraints=("node.labels.zone == b",))


@pytest.mark.parametrize(
    ("new", "node", "dirty"),
    [
        pytest.param(OLD, UNFIT, False, id="same template, whatever the node"),
        pytest.param(replace(OLD, image="nginx:2"), FITS, True, id="image"),
        pytest.param(replace(OLD, force_update=1), FITS, True, id="forced"),
        pytest.param(replace(OLD, placement=MOVED), FITS, False, id="constraint the node meets"),
        pytest.param(replace(OLD, placement=MOVED), UNFIT, True, id="constraint the node does not meet"),
        pytest.param(replace(OLD, placement=MOVED), None, True, id="constraint, no node yet"),
        pytest.param(replace(OLD, placement=None), UNFIT, False, id="constraints lifted"),
        pytest.param(replace(OLD, placement=MOVED, image="nginx:2"), FITS, True, id="more than the placement"),
        pytest.param(
            replace(OLD, placement=Placement(preferences=(Preference("node.labels.rack"),))),
            FITS,
            False,
            id="preferences",
        ),
    ],
)
def test_is_dirty(new: TaskTemplate, node: Node | None, dirty: bool) -> None:
    task = make_task(WEB, 1, node=node)
    assert is_dirty(task, "another revision", new, node) is dirty


def test_the_same_revision_is_clean_whatever_its_template_says() -> None:
    task = make_task(WEB, 1)
    assert not is_dirty(task, WEB.status.revision, replace(OLD, image="nginx:2"), None)


def test_the_template_leaves_out_what_restarts_nothing() -> None:
    spec = ServiceSpec(image="nginx:1", mode=Mode.GLOBAL, replicas=7, update=Update(parallelism=3))
    assert template_of(spec) == template_of(ServiceSpec(image="nginx:1"))
