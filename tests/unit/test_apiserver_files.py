"""Secrets and configs in the API server: admission, References, and who is told of what."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from apiserver.admission import Admission, View
from apiserver.admit_file import admit_file, admit_file_delete
from apiserver.admit_service import admit_service, admit_service_delete
from apiserver.assignments import Blocks, Picture, Pictures
from apiserver.mirror import INDEXES
from apiserver.references import MAX_USES
from apiserver.vault import Vault, shown
from shoal.api import keys
from shoal.api import objects as o
from shoal.api.codec import encode, with_meta
from shoal.api.meta import Meta, derived_uid
from shoal.api.states import DesiredState, TaskState
from shoal.api.template import FileUse
from shoal.machinery.cache import Cache
from shoal.machinery.controller import Remove, Replace
from shoal.machinery.store import Exists, NoneUnder, Unchanged
from shoal.machinery.testkit import make_node, make_service, make_task, ref_of

VAULT = Vault(bytes(range(32)))
CANARY = b"hunter2-canary"


def secret(name: str = "db", data: bytes = CANARY, **labels: str) -> o.Secret:
    return o.Secret(metadata=Meta(name=name, labels=labels), spec=o.FileSpec(data=base64.b64encode(data).decode()))


def config(name: str = "site", data: bytes = b"listen 80") -> o.Config:
    return o.Config(metadata=Meta(name=name), spec=o.FileSpec(data=base64.b64encode(data).decode()))


class Store:
    """Objects as they would lie in the store, each with a revision of its own."""

    def __init__(self) -> None:
        self.cache = Cache(INDEXES)
        self._uids = iter(derived_uid("fresh", str(number)) for number in range(1000))

    @property
    def view(self) -> View:
        return View(self.cache, vault=VAULT)

    def put(self, obj: o.Object) -> None:
        self.cache.revision += 1
        self.cache.set(keys.key_of(obj), with_meta(obj, resource_version=self.cache.revision))

    def write(self, admission: Admission) -> Admission:
        for step in admission.steps:
            if isinstance(step, Remove):
                self.cache.set(keys.key_of(step.obj), None)
            else:
                self.put(step.new if isinstance(step, Replace) else step.obj)
        return admission

    def file(self, new: o.Secret | o.Config) -> Admission:
        old = self.cache.get(type(new), keys.key_of(new))
        return self.write(admit_file(old, new, self.view, next(self._uids)))

    def delete(self, kind: type[o.Secret | o.Config], name: str) -> Admission:
        old = self.cache.get(kind, keys.prefix_of(kind) + name)
        assert old is not None
        return self.write(admit_file_delete(old, self.view, False))

    def service(self, name: str = "web", **spec: Any) -> Admission:
        new = o.Service(metadata=Meta(name=name), spec=o.ServiceSpec(**{"image": "a:1", **spec}))
        old = self.cache.get(o.Service, keys.service(name))
        return self.write(admit_service(old, new, self.view, next(self._uids)))

    def references(self) -> set[tuple[str, str]]:
        found = self.cache.all(o.Reference).values()
        return {(one.to.name, one.metadata.owner.name) for one in found if one.metadata.owner}


def messages(admission: Admission) -> list[str]:
    return [fault.message for fault in admission.faults]


def test_a_secret_is_sealed_for_its_own_kind_name_and_uid_and_never_shown() -> None:
    store = Store()
    made = store.file(secret()).obj
    assert isinstance(made, o.Secret)
    assert base64.b64encode(CANARY) not in encode(made)
    opened = VAULT.opened(made)
    assert isinstance(opened, o.Secret)
    assert base64.b64decode(opened.spec.data) == CANARY
    assert encode(shown(made)) == encode(msgspec.structs.replace(made, spec=o.FileSpec()))
    for other in (with_meta(made, name="other"), with_meta(made, uid=derived_uid("x"))):
        with pytest.raises(ValueError, match="cannot be opened"):
            VAULT.opened(other)


@pytest.mark.parametrize(
    ("new", "result"),
    [
        pytest.param(secret(), "unchanged", id="the-same"),
        pytest.param(secret(tier="a"), "configured", id="labels"),
        pytest.param(secret(data=b""), "unchanged", id="data-not-given-again"),
        pytest.param(secret(data=b"", tier="a"), "configured", id="labels-without-data"),
        pytest.param(secret(data=b"other"), "refused", id="other-data"),
    ],
)
def test_only_labels_of_a_secret_can_change(new: o.Secret, result: str) -> None:
    store = Store()
    first = store.file(secret()).obj
    admission = store.file(new)
    if result == "refused":
        assert messages(admission) == ["only updates to Labels are allowed"]
        return
    assert admission.result == result
    assert isinstance(admission.obj, o.Secret)
    assert isinstance(first, o.Secret)
    assert admission.obj.spec == first.spec


def test_data_is_needed_where_there_is_none_yet() -> None:
    assert "larger than 0" in messages(Store().file(secret(data=b"")))[0]
    assert "larger than 0" in messages(Store().file(config(data=b"")))[0]


def test_a_service_holds_what_it_uses_and_names_who_holds_it() -> None:
    store = Store()
    made = store.file(secret()).obj
    store.file(config())
    uses = (FileUse("db"), FileUse("db", target="again"))
    admission = store.service(secrets=uses, configs=(FileUse("site"),))
    assert not admission.faults
    assert store.references() == {("db", "web"), ("site", "web")}
    assert Unchanged("/shoal/secrets/db", 1) in admission.compares
    assert isinstance(admission.obj, o.Service)
    assert {use.uid for use in admission.obj.spec.secrets} == {made.metadata.uid}
    assert messages(store.delete(o.Secret, "db")) == ["secret 'db' is in use by the following service: web"]
    store.service("api", secrets=uses[:1])
    assert messages(store.delete(o.Secret, "db")) == ["secret 'db' is in use by the following services: api, web"]


def test_a_deletion_compares_that_nobody_holds_it() -> None:
    store = Store()
    made = store.file(secret()).obj
    admission = store.delete(o.Secret, "db")
    assert admission.compares == (NoneUnder(f"/shoal/refs/secret/{made.metadata.uid}/"),)
    assert store.cache.all(o.Secret) == {}


def test_a_deleted_service_holds_nothing() -> None:
    store = Store()
    store.file(secret())
    service = store.service(secrets=(FileUse("db"),)).obj
    stored = store.cache.get(o.Service, keys.service("web"))
    assert stored is not None
    store.write(admit_service_delete(stored, store.view, False))
    assert store.references() == set()
    assert service.metadata.name == "web"


def test_what_an_update_stops_using_stays_held_until_its_rollout_is_over() -> None:
    store = Store()
    store.file(secret("db-1"))
    store.file(secret("db-2"))
    store.service(secrets=(FileUse("db-1", target="db"),))
    store.service(secrets=(FileUse("db-2", target="db"),))
    assert store.references() == {("db-1", "web"), ("db-2", "web")}
    back = store.service(secrets=(FileUse("db-1", target="db"),))
    held = next(key for key, one in store.cache.all(o.Reference).items() if one.to.name == "db-1")
    assert Exists(held) in back.compares


@pytest.mark.parametrize(
    ("use", "said"),
    [
        pytest.param(FileUse("nope"), "secret nope not found", id="missing"),
        pytest.param(FileUse("db", uid="x" * 25), "secret db has the uid", id="another-uid"),
        pytest.param(FileUse("db", uid="103"), "are `owner` and `group`", id="a-user-id"),
        pytest.param(FileUse("site"), "secret site not found", id="a-config-is-no-secret"),
    ],
)
def test_a_use_that_means_nothing_is_refused(use: FileUse, said: str) -> None:
    store = Store()
    store.file(secret())
    store.file(config())
    assert said in messages(store.service(secrets=(use,)))[0]


def test_an_object_may_be_named_by_its_uid() -> None:
    store = Store()
    made = store.file(secret()).obj
    service = store.service(secrets=(FileUse(made.metadata.uid, target="x"),)).obj
    assert isinstance(service, o.Service)
    assert service.spec.secrets == (FileUse("db", target="x", uid=made.metadata.uid),)


def test_a_service_uses_no_more_than_a_transaction_can_hold() -> None:
    store = Store()
    for number in range(MAX_USES + 1):
        store.file(secret(f"s{number}"))
    uses = tuple(FileUse(f"s{number}") for number in range(MAX_USES + 1))
    assert f"at most {MAX_USES} together" in messages(store.service(secrets=uses))[0]
    assert not store.service(secrets=uses[1:]).faults


N1, N2 = make_node("n1"), make_node("n2")


class Told:
    """A node's picture over a store with one secret, one config, and a service that uses both."""

    def __init__(self) -> None:
        self.store = Store()
        self.uids = {
            kind: self.store.file(made).obj.metadata.uid for kind, made in (("secret", secret()), ("config", config()))
        }
        self.pictures = Pictures()
        self.picture = {node.metadata.name: Picture(node.metadata.uid) for node in (N1, N2)}
        for picture in self.picture.values():
            picture.complete(self.store.cache, Blocks(), str.encode)
            self.pictures.add(picture)
        self.service = make_service(
            secrets=(FileUse("db", uid=self.uids["secret"]),), configs=(FileUse("site", uid=self.uids["config"]),)
        )

    def task(self, state: TaskState, desired: DesiredState = DesiredState.RUNNING, node: o.Node = N1) -> None:
        self.change(make_task(self.service, 1, state=state, desired=desired, node=ref_of(node)))

    def change(self, obj: o.Object) -> None:
        self.store.cache.revision += 1
        new = with_meta(obj, resource_version=self.store.cache.revision)
        change = self.store.cache.set(keys.key_of(new), new)
        assert change is not None
        self.pictures.offer([change])

    def take(self, node: str = "n1") -> tuple[list[str], list[str]]:
        put, delete = self.picture[node].take(self.store.cache)
        return [key.split("/")[2] for key in put], [key.split("/")[2] for key in delete]


def test_files_come_before_the_task_that_needs_them_and_to_its_node_only() -> None:
    told = Told()
    told.task(TaskState.ASSIGNED)
    assert told.take("n1") == (["secrets", "configs", "tasks"], [])
    assert told.take("n2") == ([], [])


@pytest.mark.parametrize(
    ("state", "desired"),
    [
        pytest.param(TaskState.RUNNING, DesiredState.SHUTDOWN, id="to-be-stopped"),
        pytest.param(TaskState.RUNNING, DesiredState.REMOVE, id="to-be-removed"),
        pytest.param(TaskState.FAILED, DesiredState.RUNNING, id="failed"),
        pytest.param(TaskState.COMPLETE, DesiredState.COMPLETE, id="complete"),
    ],
)
def test_files_leave_the_node_with_the_last_task_that_needs_them(state: TaskState, desired: DesiredState) -> None:
    told = Told()
    told.task(TaskState.ASSIGNED)
    told.take()
    told.task(state, desired)
    assert told.take() == (["tasks"], ["configs", "secrets"])
    told.picture["n1"].complete(told.store.cache, Blocks(), str.encode)
    assert told.picture["n1"].files == frozenset()


def test_another_secret_of_the_same_name_is_not_sent() -> None:
    told = Told()
    told.service = make_service(secrets=(FileUse("db", uid="x" * 25),))
    told.task(TaskState.ASSIGNED)
    assert told.take() == (["tasks"], [])
