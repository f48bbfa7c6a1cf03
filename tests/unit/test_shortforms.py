"""Short forms are expanded to the full ones."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.api.shortforms import expand


def expanded(**spec: Any) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    full, faults = expand({"kind": "Service", "spec": spec})
    return full["spec"], [(fault.path, fault.message) for fault in faults]


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ({"ports": [80]}, {"ports": [{"target": 80}]}),
        ({"ports": 80}, {"ports": [{"target": 80}]}),
        ({"ports": ["80"]}, {"ports": [{"target": 80}]}),
        ({"ports": ["8080:80"]}, {"ports": [{"target": 80, "published": 8080}]}),
        ({"ports": ["8080:80/udp"]}, {"ports": [{"target": 80, "published": 8080, "protocol": "udp"}]}),
        ({"ports": ["127.0.0.1:8080:80"]}, {"ports": [{"target": 80, "published": 8080, "address": "127.0.0.1"}]}),
        ({"ports": ["[::1]:8080:80"]}, {"ports": [{"target": 80, "published": 8080, "address": "::1"}]}),
        ({"ports": ["127.0.0.1::80"]}, {"ports": [{"target": 80, "address": "127.0.0.1"}]}),
        ({"ports": [{"target": "80", "published": "81"}]}, {"ports": [{"target": 80, "published": 81}]}),
        ({"env": {"A": 1, "B": True, "C": None}}, {"env": ["A=1", "B=true", "C"]}),
        ({"env": ["A=1"]}, {"env": ["A=1"]}),
        ({"command": "sh -c 'echo hi'"}, {"command": ["sh", "-c", "echo hi"]}),
        ({"args": ["-p", 80]}, {"args": ["-p", "80"]}),
        ({"networks": ["a", {"name": "b"}]}, {"networks": [{"name": "a"}, {"name": "b"}]}),
        ({"secrets": ["s"]}, {"secrets": [{"source": "s"}]}),
        ({"configs": [{"source": "c", "fileMode": "0400"}]}, {"configs": [{"source": "c", "fileMode": 0o400}]}),
        ({"mounts": ["data:/d"]}, {"mounts": [{"type": "volume", "target": "/d", "source": "data"}]}),
        ({"mounts": ["/s:/d:ro"]}, {"mounts": [{"type": "bind", "target": "/d", "source": "/s", "readOnly": True}]}),
        ({"mounts": ["/d"]}, {"mounts": [{"type": "volume", "target": "/d"}]}),
        ({"mounts": ["v:/d:nocopy"]}, {"mounts": [{"type": "volume", "target": "/d", "source": "v", "noCopy": True}]}),
        ({"containerLabels": ["a=b", "c"]}, {"containerLabels": {"a": "b", "c": ""}}),
        ({"sysctls": {"a.b": 1}}, {"sysctls": {"a.b": "1"}}),
        ({"healthcheck": {"test": "curl x"}}, {"healthcheck": {"test": ["CMD-SHELL", "curl x"]}}),
        ({"placement": {"constraints": "a == b"}}, {"placement": {"constraints": ["a == b"]}}),
        (
            {"placement": {"preferences": ["spread=node.labels.z"], "platforms": ["linux/arm64", "linux"]}},
            {
                "placement": {
                    "preferences": [{"spread": "node.labels.z"}],
                    "platforms": [{"os": "linux", "architecture": "arm64"}, {"os": "linux"}],
                }
            },
        ),
        (
            {"ulimits": {"nofile": 10, "core": {"soft": 0, "hard": 1}}},
            {"ulimits": [{"name": "nofile", "soft": 10, "hard": 10}, {"name": "core", "soft": 0, "hard": 1}]},
        ),
        ({"ulimits": ["nofile=1:2"]}, {"ulimits": [{"name": "nofile", "soft": 1, "hard": 2}]}),
        ({"restart": "none"}, {"restart": {"condition": "none"}}),
        ({"endpoint": "vip"}, {"endpoint": {"mode": "vip"}}),
        ({"dns": "1.1.1.1"}, {"dns": {"nameservers": ["1.1.1.1"]}}),
        ({"logDriver": "local"}, {"logDriver": {"name": "local"}}),
        ({"user": 1000}, {"user": "1000"}),
        (
            {"resources": {"reservations": {"generic": {"gpu": 2, "ssd": "1"}}}},
            {"resources": {"reservations": {"generic": [{"kind": "gpu", "count": 2}, {"kind": "ssd", "count": 1}]}}},
        ),
        (
            {"resources": {"reservations": {"generic": ["gpu=2", {"kind": "ssd", "count": 1}]}}},
            {"resources": {"reservations": {"generic": [{"kind": "gpu", "count": 2}, {"kind": "ssd", "count": 1}]}}},
        ),
    ],
)
def test_a_short_form_is_expanded(short: dict[str, Any], full: dict[str, Any]) -> None:
    assert expanded(**short) == (full, [])


@pytest.mark.parametrize(
    ("short", "path", "sentence"),
    [
        ({"ports": ["80-81:80"]}, "spec.ports[0]", "list each port"),
        ({"ports": [80, "web"]}, "spec.ports[1]", "expected a port such as"),
        ({"mounts": ["./data:/data"]}, "spec.mounts[0]", "a relative path"),
        ({"mounts": ["data:data"]}, "spec.mounts[0]", "no absolute target"),
        ({"mounts": ["d:/d:z"]}, "spec.mounts[0]", "the mount option 'z'"),
        ({"command": "echo 'x"}, "spec.command", "no closing quotation"),
        (
            {"resources": {"reservations": {"generic": "gpu=uuid1"}}},
            "spec.resources.reservations.generic[0]",
            "such as gpu=2",
        ),
    ],
)
def test_a_wrong_short_form_is_a_sentence(short: dict[str, Any], path: str, sentence: str) -> None:
    ((found, message),) = expanded(**short)[1]
    assert found == path
    assert sentence in message


def test_full_forms_pass_unchanged_and_expanding_twice_changes_nothing() -> None:
    once, _ = expanded(ports=["8080:80"], env={"A": "b"}, mounts=["data:/d"], command="a b", labels=None)
    assert expanded(**once) == (once, [])


def test_labels_of_any_kind_may_be_a_list_or_hold_numbers() -> None:
    assert expand({"kind": "Node", "metadata": {"labels": {"rack": 4}}})[0]["metadata"]["labels"] == {"rack": "4"}
    assert expand({"kind": "Node", "metadata": {"labels": ["a=b"]}})[0]["metadata"]["labels"] == {"a": "b"}
