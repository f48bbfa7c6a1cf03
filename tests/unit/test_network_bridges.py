"""Which Docker networks a node needs for Shoal's, and which bridges are nobody's."""

from __future__ import annotations

from dataclasses import replace

from nodeagent.engine.contract import EngineNetwork
from nodeagent.network.docker_networks import BRIDGE_OPTION, abandoned, docker_name, wanted
from shoal.api.meta import Meta, Ref
from shoal.api.objects import Attachment, AttachmentSpec, Network, NetworkSpec

INGRESS = Network(metadata=Meta(name="ingress", uid="net1"), spec=NetworkSpec(ingress=True))


def attachment(node: str, address: str = "10.0.0.2/24", container: str = "") -> Attachment:
    spec = AttachmentSpec(Ref("ingress", "net1"), Ref(node, node), container=container, address=address)
    return Attachment(metadata=Meta(name=node), spec=spec)


def test_a_network_exists_where_the_node_has_an_address_on_it() -> None:
    (found,) = wanted([INGRESS], [attachment("n1"), attachment("n2", "10.0.0.3/24")], "n1")
    assert (found.name, found.bridge, found.subnet, found.gateway) == (
        "shoal-ingress",
        "shb-net1",
        "10.0.0.0/24",
        "10.0.0.2",
    )


def test_the_ingress_network_alone_has_an_ipv6_side_of_which_the_engine_knows_nothing() -> None:
    (ingress,) = wanted([INGRESS], [attachment("n1")], "n1", has_ipv6=True)
    assert ingress.gateway6 == "fd6c:270e:f2f2::a00:2/96"
    assert ingress.body() == replace(ingress, gateway6="").body()
    other = Network(metadata=Meta(name="front", uid="net1"))
    (front,) = wanted([other], [attachment("n1")], "n1", has_ipv6=True)
    assert front.gateway6 == ""


def test_another_node_s_or_a_container_s_address_makes_no_network() -> None:
    assert wanted([INGRESS], [attachment("n2"), attachment("n1", container="c")], "n1") == ()


def test_a_bridge_without_a_network_of_the_engine_is_abandoned() -> None:
    known = EngineNetwork("id", "shoal-ingress", "bridge", {}, options={BRIDGE_OPTION: "shb-net1"})
    assert abandoned(["lo", "eth0", "docker0", "shb-net1", "shb-old"], [known]) == ("shb-old",)


def test_the_ingress_network_comes_first_in_the_alphabet_and_equal_names_differ() -> None:
    def named(name: str, uid: str) -> str:
        return docker_name(Network(metadata=Meta(name=name, uid=uid)))

    assert docker_name(INGRESS) < min(named("a", "uid11"), named("0", "00000"))
    assert named("front", "uid11") != named("front", "uid22")
