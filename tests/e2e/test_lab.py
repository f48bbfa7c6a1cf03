"""The laboratory itself: what the other tests rely on."""

from __future__ import annotations

import pytest

from tests.support.lab import Host, Lab, eventually


@pytest.fixture(scope="module")
def pair(lab: Lab) -> tuple[Host, Host]:
    found = lab.host(11), lab.host(12)
    for host in found:
        host.on()
    return found


def reaches(one: Host, other: Host) -> bool:
    return one.run("busybox", "ping", "-c", "1", "-W", "1", other.address).code == 0


def test_a_cable_can_be_pulled_and_plugged(pair: tuple[Host, Host]) -> None:
    one, other = pair
    eventually(lambda: reaches(one, other))
    other.cut()
    assert not reaches(one, other)
    other.heal()
    eventually(lambda: reaches(one, other))


def test_a_power_cut_ends_everything_and_the_disk_survives(pair: tuple[Host, Host]) -> None:
    one, other = pair
    other.run("hack/images").ok()
    other.docker("run -d --name kept --restart no shoal/hello:1").ok()
    other.run("touch", "/run/volatile", "/var/lib/shoal/kept").ok()

    other.off()
    assert not reaches(one, other)
    other.on()

    eventually(lambda: reaches(one, other))
    assert other.docker("ps -aq --filter status=exited --filter name=kept").ok().out
    assert other.run("ls", "/var/lib/shoal/kept").code == 0
    assert other.run("ls", "/run/volatile").code != 0


def test_engines_and_names_are_each_hosts_own(pair: tuple[Host, Host]) -> None:
    ids = {host.docker(["info", "-f", "{{.ID}}"]).ok().out for host in pair}
    assert len(ids) == 2
    assert [host.run("hostname").ok().out.strip() for host in pair] == ["host11", "host12"]


def test_images_go_through_the_registry(pair: tuple[Host, Host]) -> None:
    one, other = pair
    name = "10.99.0.254:5000/hello:1"
    one.run("hack/images").ok()
    one.docker(f"tag shoal/hello:1 {name}").ok()
    eventually(lambda: one.docker(f"push -q {name}").ok())
    other.docker(f"pull -q {name}").ok()
