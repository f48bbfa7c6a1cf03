"""UDP flows to backends that serve no more are forgotten: however the rules were written, and whatever failed."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from nodeagent.assignments import Assignments
from nodeagent.engine.fake import FakeEngine
from nodeagent.network import commands
from nodeagent.network.docker_networks import DockerNetwork
from nodeagent.network.network import NodeNetwork
from nodeagent.network.rules import Picture, strangers
from nodeagent.network.scene import Scene
from nodeagent.network.told import Told
from shoal.api.errors import DataplaneError
from shoal.api.meta import Meta, Ref
from shoal.api.objects import (
    Backend,
    BackendSpec,
    BackendStatus,
    EndpointSpec,
    Network,
    NetworkSpec,
    ServiceEndpoint,
    TaskAddress,
)
from shoal.api.states import Protocol
from shoal.api.template import Port
from shoal.rules.addresses import mac_of
from tests.support.kernel import Kernel

ONE, TWO = IPv4Address("10.0.0.3"), IPv4Address("10.0.0.4")
LISTING = """
udp      17 25 src=127.0.0.1 dst=127.0.0.1 sport=4000 dport=53 src=10.0.0.3 dst=10.0.0.2 sport=53 dport=4000 use=1
udp      17 25 src=192.0.2.9 dst=192.0.2.1 sport=9 dport=9 [UNREPLIED] src=10.9.0.7 dst=192.0.2.9 sport=9 dport=9 use=1
conntrack v1.4.7 (conntrack-tools): 2 flow entries have been shown.
"""


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(tracked={ONE, TWO}).install(monkeypatch)


INGRESS = Ref("ingress", "a")
HERE = (DockerNetwork("a", "shoal-ingress", "shb-a", "10.0.0.0/24", "10.0.0.2"),)


def scene(*addresses: IPv4Address) -> Scene:
    """A service that publishes UDP port 53, with ready backends at these addresses."""
    web = Ref("web", "web")
    endpoint = EndpointSpec(web, ports=(Port(53, 53, protocol=Protocol.UDP),))
    specs = {
        f"t{one}": BackendSpec(
            web, Ref(f"web.{one}", f"t{one}"), Ref("n2", "n2"), (TaskAddress(INGRESS, f"{one}/24", mac_of(f"{one}")),)
        )
        for one in addresses
    }
    objects = (
        Network(metadata=Meta(name="ingress", uid="a"), spec=NetworkSpec(ingress=True)),
        ServiceEndpoint(metadata=Meta(name="web"), spec=endpoint),
        *(Backend(metadata=Meta(name=t), spec=spec, status=BackendStatus(ready=True)) for t, spec in specs.items()),
    )
    return Scene(HERE, Told().after(Assignments().replaced(objects, 1)))


@pytest.mark.anyio
@pytest.mark.parametrize("rewritten", [False, True], ids=["rules are changed", "rules are written anew"])
async def test_flows_to_a_vanished_backend_are_forgotten(kernel: Kernel, rewritten: bool) -> None:
    network = NodeNetwork(FakeEngine(), "n1")
    await network._ensure_rules(scene(ONE, TWO))
    if rewritten:
        network._ruled = None
    await network._ensure_rules(scene(TWO))
    assert kernel.tracked == {TWO}


@pytest.mark.anyio
async def test_flows_begun_to_a_port_while_nothing_served_it_are_forgotten_when_something_does(kernel: Kernel) -> None:
    network = NodeNetwork(FakeEngine(), "n1")
    await network._ensure_rules(scene(ONE, TWO))
    await network._ensure_rules(scene())
    kernel.tracked.add(53)
    await network._ensure_rules(scene())
    assert 53 in kernel.tracked
    await network._ensure_rules(scene(TWO))
    assert 53 not in kernel.tracked


@pytest.mark.anyio
async def test_flows_to_a_backend_that_vanished_while_no_agent_ran_are_forgotten(kernel: Kernel) -> None:
    await NodeNetwork(FakeEngine(), "n1")._ensure_rules(scene(TWO))
    assert kernel.tracked == {TWO}


@pytest.mark.anyio
async def test_flows_that_could_not_be_forgotten_are_forgotten_with_the_next_pass(kernel: Kernel) -> None:
    network = NodeNetwork(FakeEngine(), "n1")
    await network._ensure_rules(scene(ONE, TWO))
    kernel.is_stubborn = True
    with pytest.raises(DataplaneError):
        await network._ensure_rules(scene(TWO))
    kernel.is_stubborn = False
    await network._ensure_rules(scene(TWO))
    assert kernel.tracked == {TWO}


def test_conntracks_listing_tells_who_answers() -> None:
    assert commands.translated_to(LISTING) == {ONE, IPv4Address("10.9.0.7")}


def test_flows_outside_the_mesh_are_others() -> None:
    assert strangers([ONE, IPv4Address("10.9.0.7")], Picture(bridges=(("shb-a", "10.0.0.0/24"),))) == {ONE}


INSIDE = """[
  {"ifname": "lo", "addr_info": [{"family": "inet", "local": "127.0.0.1"}]},
  {"ifname": "eth0", "link_index": 19, "addr_info": [{"family": "inet", "local": "10.0.1.5"}]},
  {"ifname": "eth1", "link_index": 21, "addr_info": [{"family": "inet6", "local": "fe80::1"},
                                                     {"family": "inet", "local": "10.0.2.5"}]}
]"""


def test_a_container_s_own_listing_tells_which_link_outside_leads_to_a_network() -> None:
    assert commands.links_to(INSIDE, "10.0.2.0/24") == [21]
    assert commands.links_to(INSIDE, "10.0.3.0/24") == []


CHAINS = """\
table ip nat {
\tchain DOCKER {
\t}
}
table ip shoal {
\tchain prerouting {
\t\ttype nat hook prerouting priority dstnat - 10; policy accept;
\t}
\tchain shb-net1-10.0.0.9 {
\t}
}
"""


def test_chains_are_read_with_their_tables() -> None:
    assert commands.chains_in(CHAINS) == {"ip nat DOCKER", "ip shoal prerouting", "ip shoal shb-net1-10.0.0.9"}
