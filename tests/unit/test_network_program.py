"""What one pass does to kernel and engine: only what changed, whatever is away, and everything again when in doubt."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from nodeagent.assignments import Assignments
from nodeagent.engine.contract import Body, EngineNetwork
from nodeagent.engine.fake import FakeEngine
from nodeagent.network import network as module
from nodeagent.network.docker_networks import BRIDGE_OPTION
from nodeagent.network.network import NodeNetwork
from nodeagent.network.sixes import address6
from nodeagent.ports import ContainerNetwork, NetworkEndpoint
from nodeagent.tasks.container import NODE_LABEL
from shoal.api.errors import EngineError
from shoal.api.meta import Meta, Ref
from shoal.api.objects import (
    Attachment,
    AttachmentSpec,
    Backend,
    BackendSpec,
    BackendStatus,
    EndpointNetwork,
    EndpointSpec,
    Network,
    NetworkSpec,
    NetworkStatus,
    Object,
    ServiceEndpoint,
    Subnet,
    Task,
    TaskAddress,
)
from shoal.api.template import NetworkUse, Port
from shoal.machinery.factories import make_service, make_task
from shoal.rules.addresses import mac_of
from tests.support.kernel import Kernel

pytestmark = pytest.mark.anyio

INGRESS, FRONT = Ref("ingress", "net0"), Ref("front", "net1")


class Engine(FakeEngine):
    """Its networks have bridges in the kernel."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self._kernel = kernel
        self.refused: set[str] = set()

    async def create_network(self, name: str, body: Body) -> str:
        if name in self.refused:
            raise EngineError("Pool overlaps with other one on this address space")
        if bridge := body.get("Options", {}).get(BRIDGE_OPTION):
            self._kernel.bridges.add(bridge)
        return await super().create_network(name, body)

    async def remove_network(self, name: str) -> None:
        found: EngineNetwork | None = self.nets.get(name)
        await super().remove_network(name)
        if found is not None:
            self._kernel.bridges.discard(found.options.get(BRIDGE_OPTION, ""))


def network(ref: Ref, number: int) -> Network:
    subnet = Subnet(f"10.0.{number}.0/24")
    return Network(
        metadata=Meta(name=ref.name, uid=ref.uid), spec=NetworkSpec(ingress=ref is INGRESS),
        status=NetworkStatus(subnets=(subnet,), vni=4096 + number),
    )  # fmt: skip


def attachment(ref: Ref, third: int, node: int) -> Attachment:
    address = f"10.0.{third}.{1 + node}/24"
    spec = AttachmentSpec(
        ref, Ref(f"n{node}", f"n{node}"), address=address, mac=mac_of(address), vtep=f"192.0.2.{node}", number=node
    )
    return Attachment(metadata=Meta(name=f"{ref.name}.n{node}", uid=f"{ref.name}.n{node}"), spec=spec)


def backend(last: int, node: int, *, ready: bool = True) -> Backend:
    addresses = tuple(
        TaskAddress(ref, f"10.0.{third}.{last}/24", mac_of(f"10.0.{third}.{last}"))
        for third, ref in enumerate((INGRESS, FRONT))
    )
    spec = BackendSpec(Ref("web", "svc1"), Ref(f"web.{last}", f"t{last}"), Ref(f"n{node}", f"n{node}"), addresses)
    return Backend(metadata=Meta(name=f"t{last}", uid=f"b{last}"), spec=spec, status=BackendStatus(ready=ready))


ENDPOINT = ServiceEndpoint(
    metadata=Meta(name="web"),
    spec=EndpointSpec(Ref("web", "svc1"), ports=(Port(80, 8080),), networks=(EndpointNetwork(FRONT, "10.0.1.9/24"),)),
)
BASE: tuple[Object, ...] = (
    network(INGRESS, 0), network(FRONT, 1), ENDPOINT,
    *(attachment(ref, third, node) for third, ref in enumerate((INGRESS, FRONT)) for node in (1, 2)),
)  # fmt: skip


def told(*objects: Object, without: Iterable[Object] = ()) -> Assignments:
    return Assignments().replaced((one for one in (*BASE, *objects) if one not in without), 1)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel().install(monkeypatch)


@pytest.fixture
def engine(kernel: Kernel) -> Engine:
    return Engine(kernel)


@pytest.fixture
def node(engine: Engine) -> NodeNetwork:
    return NodeNetwork(engine, "n1")


async def test_the_first_pass_makes_networks_tunnels_and_rules(
    node: NodeNetwork, kernel: Kernel, engine: Engine
) -> None:
    await node.program(told(backend(11, 2)))
    assert sorted(engine.nets) == ["shoal-ingress", "shoal-net-front.net1"]
    assert sorted(kernel.tunnels) == ["shx-net0", "shx-net1"]
    assert "goto shb-net1-10.0.1.9" in kernel.scripts[-1]


async def test_a_changed_backend_costs_its_own_entries_and_chains_and_asks_the_engine_nothing(
    node: NodeNetwork, kernel: Kernel, engine: Engine
) -> None:
    many = [backend(last, 2) for last in range(10, 110)]
    await node.program(told(*many))
    kernel.asked.clear()
    kernel.scripts.clear()
    engine.calls.clear()

    await node.program(told(*many[1:], backend(200, 2)))

    assert len(kernel.asked) == 2 * 2 * 3  # one gone and one come, on two networks: far end, way, neighbour
    assert (
        len("".join(kernel.scripts).splitlines()) == 2 * 2
    )  # the port's chain and the virtual IP's, flushed and filled
    assert engine.calls == []

    kernel.asked.clear()
    kernel.scripts.clear()
    await node.program(told(*many[1:], backend(200, 2)))
    assert (kernel.asked, kernel.scripts) == ([], [])


async def test_what_hands_altered_is_mended_with_the_next_look(
    node: NodeNetwork, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.program(told(backend(11, 2)))
    wanted = dict(kernel.tunnels)
    del kernel.tunnels["shx-net0"]
    kernel.scripts.clear()
    monkeypatch.setattr(module, "CHECK_AFTER_S", -1.0)
    await node.program(told(backend(11, 2)))
    assert kernel.tunnels == wanted
    assert "flush table ip shoal" in kernel.scripts[0]


async def test_tables_that_were_made_otherwise_are_replaced(node: NodeNetwork, kernel: Kernel) -> None:
    kernel.is_otherwise = True
    await node.program(told(backend(11, 2)))
    assert kernel.scripts[-1].startswith("table ip shoal {}\ndelete table ip shoal")
    assert "dnat to" in kernel.scripts[-1]


async def test_without_the_engine_entries_and_rules_follow_all_the_same(
    node: NodeNetwork, kernel: Kernel, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.program(told(backend(11, 2)))
    engine.reachable = False
    monkeypatch.setattr(module, "CHECK_AFTER_S", -1.0)
    fresh = NodeNetwork(engine, "n1")
    for each in (node, fresh):
        await each.program(told(backend(12, 2)))
        assert {one.address for one in kernel.tunnels["shx-net1"].neighbours} == {"10.0.1.3", "10.0.1.9", "10.0.1.12"}
        assert "dnat to 10.0.0.12:80" in kernel.scripts[-1]


async def test_a_network_the_engine_refuses_keeps_only_its_own_tasks_waiting(
    node: NodeNetwork, kernel: Kernel, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.refused.add("shoal-net-front.net1")
    await node.program(told(backend(11, 2)))
    monkeypatch.setattr(module, "BRIDGE_WAIT_S", 0.0)
    on_ingress = make_task(addresses=(TaskAddress(INGRESS, "10.0.0.20/24", ""),))
    on_front = make_task(addresses=(TaskAddress(FRONT, "10.0.1.20/24", ""),))
    assert [one.name for one in (await node.prepare(on_ingress)).endpoints] == ["shoal-ingress"]
    with pytest.raises(EngineError, match="network front is not ready on this node: Pool overlaps"):
        await node.prepare(on_front)

    engine.refused.clear()
    await node.program(told(backend(11, 2)))
    assert [one.name for one in (await node.prepare(on_front)).endpoints] == ["shoal-net-front.net1"]


@pytest.mark.parametrize(
    ("networks", "addresses", "expected"),
    [
        pytest.param(("host",), (), ContainerNetwork(mode="host"), id="host"),
        pytest.param(("bridge",), (), ContainerNetwork(), id="the-engine-s-default-bridge"),
        pytest.param(
            ("front", "bridge"),
            (TaskAddress(FRONT, "10.0.1.20/24", "02:42:0a:00:01:14"),),
            ContainerNetwork(
                (NetworkEndpoint("shoal-net-front.net1", "10.0.1.20", "02:42:0a:00:01:14"), NetworkEndpoint("bridge"))
            ),
            id="bridge-beside-an-overlay",
        ),
        pytest.param(
            (NetworkUse("front", driver_opts={"a": "b"}, uid="net1"),),
            (TaskAddress(FRONT, "10.0.1.20/24", ""),),
            ContainerNetwork((NetworkEndpoint("shoal-net-front.net1", "10.0.1.20", options={"a": "b"}),)),
            id="an attachment's driver options",
        ),
    ],
)
async def test_a_container_is_wired_as_its_networks_say(
    node: NodeNetwork,
    kernel: Kernel,
    networks: tuple[str | NetworkUse, ...],
    addresses: tuple[TaskAddress, ...],
    expected: ContainerNetwork,
) -> None:
    await node.program(told())
    service = make_service(networks=tuple(use if isinstance(use, NetworkUse) else NetworkUse(use) for use in networks))
    assert await node.prepare(make_task(service, addresses=addresses)) == expected


LAN = Network(metadata=Meta(name="lan", uid="net9"), spec=NetworkSpec(driver="macvlan", config_from="lan-here"))
POOL = {"Subnet": "192.0.2.0/24", "IPRange": "192.0.2.64/28"}


def on_lan(*addresses: TaskAddress) -> Task:
    return make_task(make_service(networks=(NetworkUse("lan", aliases=("db",), uid="net9"),)), addresses=addresses)


async def test_a_node_local_network_is_made_from_this_node_s_own_configuration_and_goes_with_its_last_task(
    node: NodeNetwork, kernel: Kernel, engine: Engine
) -> None:
    body = {"ConfigOnly": True, "IPAM": {"Config": [POOL]}, "Options": {"parent": "eth1"}}
    await engine.create_network("lan-here", body)
    await node.program(told(LAN))
    made = engine.nets["shoal-net-lan.net9"]
    assert (made.driver, made.ipam, made.options) == ("macvlan", {"Config": [POOL]}, {"parent": "eth1"})
    assert (await node.prepare(on_lan())).endpoints == (NetworkEndpoint("shoal-net-lan.net9", aliases=("db",)),)
    beside = await node.prepare(on_lan(TaskAddress(INGRESS, "10.0.0.20/24", "")))
    assert [one.name for one in beside.endpoints] == ["shoal-ingress", "shoal-net-lan.net9"]
    assert "net9" not in "".join((*kernel.scripts, *kernel.tunnels))
    await node.program(told())
    await node.cleanup()
    assert sorted(engine.nets) == ["lan-here", "shoal-ingress", "shoal-net-front.net1"]


@pytest.mark.parametrize(
    ("existing", "reason"),
    [
        (
            None,
            "this node has no network lan-here to configure it; make one there: docker network create --config-only",
        ),
        ({"Driver": "bridge"}, "the network lan-here of this node is not a config-only one"),
    ],
    ids=["missing", "an ordinary network"],
)
async def test_a_node_without_the_configuration_says_so_at_once_and_is_asked_again(
    node: NodeNetwork, kernel: Kernel, engine: Engine, existing: Body | None, reason: str
) -> None:
    if existing is not None:
        await engine.create_network("lan-here", existing)
    await node.program(told(LAN))
    with pytest.raises(EngineError, match=f"network lan cannot be made on this node: {reason}") as caught:
        await node.prepare(on_lan())
    assert not caught.value.temporary
    await engine.remove_network("lan-here")
    await engine.create_network("lan-here", {"ConfigOnly": True})
    await node.program(told(LAN))
    assert [one.name for one in (await node.prepare(on_lan())).endpoints] == ["shoal-net-lan.net9"]


async def test_a_node_local_network_without_configuration_is_as_its_options_say(
    node: NodeNetwork, kernel: Kernel, engine: Engine
) -> None:
    options = {"com.docker.network.bridge.enable_icc": "false"}
    spec = NetworkSpec(driver="bridge", options=options, internal=True)
    await node.program(told(Network(metadata=Meta(name="own", uid="net8"), spec=spec)))
    assert engine.nets["shoal-net-own.net8"].options == options


async def test_a_deleted_bridge_with_containers_on_it_is_made_anew_and_they_are_put_back(
    node: NodeNetwork, kernel: Kernel, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.program(told())
    engine.images.add("web")
    labels = {NODE_LABEL: "n1"}
    networking = {"EndpointsConfig": {"shoal-net-front.net1": {}}}
    await engine.start(
        await engine.create("web.1.a", {"Image": "web", "Labels": labels, "NetworkingConfig": networking})
    )
    kernel.bridges.discard("shb-net1")
    monkeypatch.setattr(module, "CHECK_AFTER_S", -1.0)

    await node.program(told())

    assert kernel.restored == [("shb-net1", "10.0.1.2/24", (7,))]
    assert sorted(kernel.tunnels) == ["shx-net0", "shx-net1"]


ON_BOTH = make_task(addresses=(TaskAddress(INGRESS, "10.0.0.20/24", ""), TaskAddress(FRONT, "10.0.1.20/24", "")))
ITS_SIX = (44, "10.0.0.20", f"{address6('net0', '10.0.0.20')}/96", str(address6("net0", "10.0.0.2")))


async def test_where_the_host_has_ipv6_so_do_containers_on_the_ingress_network(
    node: NodeNetwork, kernel: Kernel
) -> None:
    kernel.has_ipv6 = True
    await node.program(told(backend(11, 2)))
    await node.complete(ON_BOTH, 44)
    assert kernel.given == [ITS_SIX]
    assert any(":" in one.address for one in kernel.tunnels["shx-net0"].neighbours)
    assert kernel.tunnels["shx-net0"].tunnel.address6 == f"{address6('net0', '10.0.0.2')}/96"


async def test_a_container_found_running_before_its_network_is_known_gets_its_ipv6_address_then(
    node: NodeNetwork, kernel: Kernel
) -> None:
    kernel.has_ipv6 = True
    await node.complete(ON_BOTH, 44)
    assert kernel.given == []
    await node.program(told())
    assert kernel.given == [ITS_SIX]


@pytest.mark.parametrize("case", ["a host without IPv6", "a task that wants none", "a container that has gone"])
async def test_a_container_does_with_ipv4_where_there_is_no_ipv6(node: NodeNetwork, kernel: Kernel, case: str) -> None:
    kernel.has_ipv6 = case != "a host without IPv6"
    kernel.unable |= {"10.0.0.20"} if case == "a container that has gone" else set()
    sysctls = {"net.ipv6.conf.all.disable_ipv6": "1"} if case == "a task that wants none" else {}
    task = replace(ON_BOTH, spec=replace(ON_BOTH.spec, template=replace(ON_BOTH.spec.template, sysctls=sysctls)))
    await node.program(told())
    await node.complete(task, 44)
    assert kernel.given == []


async def test_after_the_engine_was_away_all_is_compared_at_once(node: NodeNetwork, kernel: Kernel) -> None:
    await node.program(told())
    kernel.tunnels.clear()
    await node.program(told())
    assert not kernel.tunnels
    node.distrust()
    await node.program(told())
    assert sorted(kernel.tunnels) == ["shx-net0", "shx-net1"]


async def test_a_tunnel_the_kernel_refuses_keeps_only_its_own_tasks_waiting(
    node: NodeNetwork, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.unable.add("shx-net1")
    await node.program(told(backend(11, 2)))
    assert list(kernel.tunnels) == ["shx-net0"]
    assert "dnat to 10.0.0.11:80" in kernel.scripts[-1]
    monkeypatch.setattr(module, "BRIDGE_WAIT_S", 0.0)
    with pytest.raises(EngineError, match=r"network front is not ready on this node: .*Operation not supported"):
        await node.prepare(make_task(addresses=(TaskAddress(FRONT, "10.0.1.20/24", ""),)))

    kernel.unable.clear()
    await node.program(told(backend(11, 2)))
    assert sorted(kernel.tunnels) == ["shx-net0", "shx-net1"]


async def test_a_network_the_node_left_goes_with_its_tunnel_and_rules(
    node: NodeNetwork, kernel: Kernel, engine: Engine
) -> None:
    await node.program(told(backend(11, 2)))
    left = told(backend(11, 2), without=[attachment(FRONT, 1, 1)])
    await node.program(left)
    await node.cleanup()
    assert (list(engine.nets), list(kernel.tunnels)) == (["shoal-ingress"], ["shx-net0"])
    assert 'delete element ip shoal bridges { "shb-net1" }' in kernel.scripts[-1]


async def test_what_is_in_force_stays_while_nothing_is_known(node: NodeNetwork, kernel: Kernel) -> None:
    await node.program(told(backend(11, 2)))
    kernel.asked.clear()
    kernel.scripts.clear()
    await node.program(Assignments())
    assert (kernel.asked, kernel.scripts) == ([], [])
