"""A real host for end-to-end tests: its own kernel namespaces, Docker engine and Shoal (see tests/support/lab.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, forming
from tests.support.lab import Host, Lab, remove_folder
from tests.support.onlookers import Bystander, clear, standing_by

PROCESSES = (
    "host",
    "etcd",
    "apiserver",
    "replication",
    "rollout",
    "placement",
    "endpoint",
    "nodes",
    "dns",
    "nodeagent",
)
_spare = count(21)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One laboratory for the whole run; it ends with us, also when we are killed."""
    laboratory = Lab(f"t{os.getpid()}", tmp_path_factory.mktemp("lab"), tied=True)
    laboratory.up(0)
    yield laboratory
    laboratory.down()


@pytest.fixture(scope="session")
def lasting_host(lab: Lab) -> Host:
    """Host 1, made the first of a swarm once."""
    found = lab.host(1)
    found.on()
    found.run("hack/images").ok()
    found.up()
    return found


@pytest.fixture
def host(lasting_host: Host, request: pytest.FixtureRequest) -> Iterator[Host]:
    """Host 1, up and without services; what a test leaves behind is removed."""
    lasting_host.up()
    request.node.lab_hosts = (lasting_host,)
    yield lasting_host
    lasting_host.start_engine()
    lasting_host.up()
    clear(lasting_host)


@pytest.fixture
def steady_host(lasting_host: Host, request: pytest.FixtureRequest) -> Iterator[Host]:
    """Host 1, for tests that do no harm to processes: quicker than `host`, and without services as well."""
    request.node.lab_hosts = (lasting_host,)
    yield lasting_host
    clear(lasting_host)


@pytest.fixture(scope="session")
def lasting_rough_host(lab: Lab) -> Host:
    """Host 2, for tests that kill and break things; made the first of a swarm once."""
    found = lab.host(2)
    found.on()
    found.run("hack/images").ok()
    found.up()
    return found


@pytest.fixture
def rough_host(lasting_rough_host: Host, request: pytest.FixtureRequest) -> Host:
    """Host 2, up; services stay as the last test of the module left them."""
    lasting_rough_host.start_engine()
    lasting_rough_host.up()
    request.node.lab_hosts = (lasting_rough_host,)
    return lasting_rough_host


@pytest.fixture(scope="module")
def bystander(lasting_rough_host: Host) -> Iterator[Bystander]:
    """A service on host 2 that none of the module's tests touches, watched all the time."""
    with standing_by(lasting_rough_host) as found:
        yield found
    clear(lasting_rough_host)


@pytest.fixture
def fresh_host(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Host]:
    """A host with an engine and its images, on which Shoal was never started."""
    found = lab.host(next(_spare))
    found.on()
    request.node.lab_hosts = (found,)
    yield found
    found.off()
    remove_folder(found.directory)


@pytest.fixture(scope="module")
def formed(lab: Lab) -> Iterator[Cluster]:
    """Hosts 31 to 33, made a cluster once for a file's tests."""
    with forming(lab, 31, 32, 33) as found:
        yield found


@pytest.fixture
def cluster(formed: Cluster, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Ready hosts of one cluster, without services; what a test did to them is undone."""
    request.node.lab_hosts = formed.hosts
    yield formed
    formed.restore()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show what Shoal's processes said last when a test fails."""
    report = yield
    if report.failed:
        for host in getattr(item, "lab_hosts", ()):
            logs = {process: host.log(process, lines=25) for process in PROCESSES}
            report.sections += [(f"{host.name} {process}.log", log) for process, log in logs.items() if log]
    return report


@pytest.fixture
def repository() -> Path:
    return Path(__file__).resolve().parents[2]
