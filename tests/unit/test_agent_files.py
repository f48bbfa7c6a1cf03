"""What the files of a task hold, and when they are wiped."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from nodeagent.assignments import Assignments
from nodeagent.mounts.contents import Content, contents_of
from nodeagent.mounts.files import TaskFiles, filesystem_of
from shoal.api.errors import DataplaneError, TerminalError
from shoal.api.meta import Meta, derived_uid
from shoal.api.objects import Config, FileSpec, Secret, Task
from shoal.api.template import FileUse
from shoal.rules.expand import NodeFacts
from tests.support.agent import task_for

NODE = NodeFacts("n1uid", "host1", "linux", "x86_64")


def uid(name: str) -> str:
    return derived_uid("file", name)


def use(name: str, **more: Any) -> FileUse:
    return FileUse(name, uid=uid(name), **more)


def sent(kind: type[Secret] | type[Config], name: str, text: str | bytes, templating: str = "") -> Secret | Config:
    raw = text if isinstance(text, bytes) else text.encode()
    spec = FileSpec(data=base64.b64encode(raw).decode(), templating=templating)
    return kind(metadata=Meta(name=name, uid=uid(name)), spec=spec)


def contents(task: Task, *files: Secret | Config) -> tuple[Content, ...]:
    return contents_of(task, Assignments().replaced([task, *files], 1), NODE)


def test_each_use_is_a_file_with_its_owner_and_mode() -> None:
    task = task_for(
        secrets=(use("db"), use("db", target="/etc/pass", owner="10", group="11", file_mode=0o400)),
        configs=(use("site"), use("site", target="etc/site")),
    )
    found = contents(task, sent(Secret, "db", b"\x00\xff"), sent(Config, "site", "hello"))
    assert found == (
        Content("/run/secrets/db", 0, 0, 0o444, b"\x00\xff"),
        Content("/etc/pass", 10, 11, 0o400, b"\x00\xff"),
        Content("/site", 0, 0, 0o444, b"hello"),
        Content("/etc/site", 0, 0, 0o444, b"hello"),
    )
    assert "xff" not in repr(found)


def test_templates_see_the_task_and_its_own_files_only() -> None:
    task = task_for(2, env=("MODE=on-{{.Node.Hostname}}",), secrets=(use("db", target="pw"),), configs=(use("t"),))
    text = '{{.Service.Name}} {{.Task.Slot}} {{.Node.ID}} {{secret "pw"}} {{env "MODE"}}'
    found = contents(task, sent(Secret, "db", "{{.Raw}}"), sent(Config, "t", text, "golang"))
    assert found[1].data.decode() == "web 2 n1uid {{.Raw}} on-host1"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        pytest.param((), "secret db did not come with the task", id="missing"),
        pytest.param((sent(Secret, "db", b"\xff", "golang"),), "no UTF-8 text", id="no-text"),
        pytest.param((sent(Secret, "db", "hunter2 {{config `x`}}", "golang"),), "secret db: line 1", id="foreign"),
    ],
)
def test_a_task_whose_files_cannot_be_made_is_told_why_without_quoting(files: tuple[Secret, ...], said: str) -> None:
    with pytest.raises(TerminalError, match=said) as refused:
        contents(task_for(secrets=(use("db"),)), *files)
    assert "hunter2" not in str(refused.value)


MOUNTS = r"""
22 1 8:1 / / rw - ext4 /dev/sda1 rw
25 22 0:23 / /run rw,nosuid shared:5 - tmpfs tmpfs rw
40 22 8:2 / /run/on\040disk rw - xfs /dev/sdb rw
41 22 0:30 / /srv rw - xfs /dev/sdc rw
42 41 0:31 / /srv rw - tmpfs tmpfs rw
""".strip()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/run/shoal/files", "tmpfs"),
        ("/var/x", "ext4"),
        ("/run/on disk/x", "xfs"),
        ("/srv/a", "tmpfs"),
        ("/runx", "ext4"),
    ],
)
def test_the_filesystem_of_a_path_is_that_of_its_nearest_newest_mount(path: str, kind: str) -> None:
    assert filesystem_of(Path(path), MOUNTS) == kind


@pytest.mark.anyio
async def test_a_directory_that_cannot_be_made_rejects_the_task_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where a directory should be")
    files = TaskFiles(tmp_path / "run" / "files")
    task = task_for(secrets=(use("db"),))
    files.offer(Assignments().replaced([task, sent(Secret, "db", "x")], 1))
    with pytest.raises(DataplaneError, match="Not a directory"):
        await files.prepare(task, NODE)
    await files.sweep(())
