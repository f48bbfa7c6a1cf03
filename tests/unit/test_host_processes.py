"""What a host runs, in which order, and how soon what ended is started again."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from shoal.api.errors import InvalidError
from shoal.api.states import Role
from shoal.host.child import SPARING, child_environment
from shoal.host.daemon import Options, refuse_other_ports
from shoal.host.identity import EtcdPorts, Identity, Phase
from shoal.host.paths import Paths
from shoal.host.processes import CLUSTER, CONTROLLERS, Process, processes_for, stop_order
from shoal.host.restarts import Restarts

PATHS = Paths(Path("/state"), Path("/run/here"))
MANAGER = Identity(
    phase=Phase.MEMBER,
    node="n1",
    name="alpha",
    role=Role.MANAGER,
    cluster="c1",
    incarnation="i1",
    advertise_addr="10.99.0.1",
    etcd_ports=EtcdPorts(4379, 4380),
)


def table(role: Role = Role.MANAGER, machine: str = "x86_64") -> dict[str, Process]:
    identity = msgspec.structs.replace(MANAGER, role=role)
    return {process.name: process for process in processes_for(identity, PATHS, "unix:///d.sock", machine)}


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        pytest.param(
            Role.MANAGER, ["etcd", "apiserver", *CONTROLLERS, "dns", "nodeagent"], id="a manager runs everything"
        ),
        pytest.param(Role.WORKER, ["dns", "nodeagent"], id="a worker runs agent and name service only"),
    ],
)
def test_the_role_decides_what_runs(role: Role, expected: list[str]) -> None:
    assert list(table(role)) == expected


@pytest.mark.parametrize(
    ("process", "needs"),
    [
        ("etcd", ()),
        ("apiserver", ("etcd", CLUSTER)),
        *((name, ("etcd", CLUSTER)) for name in CONTROLLERS),
        ("dns", ()),
        ("nodeagent", ("apiserver",)),
    ],
)
def test_a_process_starts_after_what_it_needs(process: str, needs: tuple[str, ...]) -> None:
    assert table()[process].needs == needs


def test_etcd_wants_client_certificates_and_listens_on_loopback_only() -> None:
    argv = table()["etcd"].argv

    assert {"--client-cert-auth", "--peer-client-cert-auth"} <= set(argv)
    assert argv[argv.index("--listen-client-urls") + 1] == "https://127.0.0.1:4379"
    assert argv[argv.index("--listen-peer-urls") + 1] == "https://127.0.0.1:4380"


def test_only_api_servers_get_the_cluster_key() -> None:
    holders = [name for name, process in table().items() if "/state/cluster.key" in process.argv]
    assert holders == ["apiserver"]


def test_the_agent_never_hears_of_etcd() -> None:
    assert not any("etcd" in argument for argument in table()["nodeagent"].argv)


def test_a_workers_agent_speaks_to_every_manager_it_knows_with_its_own_certificate() -> None:
    worker = msgspec.structs.replace(MANAGER, role=Role.WORKER, managers=("10.99.0.1:2377", "10.99.0.2:2377"))
    *_, agent = processes_for(worker, PATHS, "unix:///d.sock")
    options = list(pairwise(agent.argv))
    assert [url for option, url in options if option == "--api"] == ["https://10.99.0.1:2377", "https://10.99.0.2:2377"]
    assert ("--tls-ca", "/state/pki/node/ca.crt") in options
    assert ("--tls-chain", "/state/pki/node/node.pem") in options


def test_the_api_server_serves_other_hosts_as_this_manager() -> None:
    argv = table()["apiserver"].argv
    options = list(pairwise(argv))
    assert {("--listen", "0.0.0.0:2377"), ("--node", "n1"), ("--advertise", "10.99.0.1")} <= set(options)


def test_etcd_is_told_that_64_bit_arm_is_meant() -> None:
    assert table(machine="aarch64")["etcd"].environment == {"ETCD_UNSUPPORTED_ARCH": "arm64"}
    assert table(machine="x86_64")["etcd"].environment == {}


def test_processes_stop_in_reverse_order_and_together_where_they_may() -> None:
    groups = [[process.name for process in group] for group in stop_order(table().values())]
    assert groups == [[*CONTROLLERS, "dns", "nodeagent"], ["apiserver"], ["etcd"]]


def test_a_child_gets_no_option_of_etcd_from_our_environment() -> None:
    ours = {"PATH": "/bin", "ETCD_NAME": "other", "ETCDCTL_API": "2", "SHOAL_ETCD": "http://elsewhere:2379"}

    given = child_environment(ours, {"MORE": "1"})

    assert given == {"PATH": "/bin", "MORE": "1", "GRPC_ENABLE_FORK_SUPPORT": "0", "PYTHONUNBUFFERED": "1", **SPARING}


def test_waits_double_up_to_ten_seconds() -> None:
    restarts, waits = Restarts(), []
    for _ in range(9):
        restarts = restarts.after_exit(ready_for_s=0.0)
        waits.append(restarts.wait_s)
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


@pytest.mark.parametrize(
    ("ready_for_s", "wait_s"),
    [
        pytest.param(0.0, 0.8, id="one that never was ready waits longer"),
        pytest.param(9.9, 0.8, id="ready for a moment is not healthy yet"),
        pytest.param(10.0, 0.1, id="ten seconds ready, and the wait begins anew"),
    ],
)
def test_health_resets_the_wait_but_not_the_count(ready_for_s: float, wait_s: float) -> None:
    after = Restarts(total=7, in_a_row=3).after_exit(ready_for_s)
    assert (after.total, after.wait_s) == (8, wait_s)


def test_a_process_that_fails_for_years_does_not_overflow() -> None:
    assert Restarts(total=10**9, in_a_row=10**9).wait_s == 10.0


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        pytest.param((None, None), "", id="no port asked for"),
        pytest.param((4379, 4380), "", id="the recorded ones"),
        pytest.param((2379, None), "--etcd-port", id="another client port"),
        pytest.param((None, 2380), "--etcd-peer-port", id="another peer port"),
        pytest.param((None, None, 2379), "--api-port", id="another port for other hosts"),
    ],
)
def test_a_manager_keeps_the_ports_it_was_born_with(asked: tuple[int | None, ...], refused: str) -> None:
    options = Options(PATHS, "unix:///d.sock", "alpha", *asked)
    if not refused:
        refuse_other_ports(options, MANAGER)
        return
    with pytest.raises(InvalidError, match=f"^{refused}: .* (4379|4380|2377), found 23(79|80)"):
        refuse_other_ports(options, MANAGER)
