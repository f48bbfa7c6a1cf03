"""What `shoal doctor network` says of what the nodes found: each cause once, whoever found it."""

from __future__ import annotations

import pytest

from shoal.api.probes import Host, Names, NodeProbe, ProbedNode, ProbedNodes, Way, WrongName
from shoal.cli.diagnosis import findings, grouped, summary

NODES = ("a", "b", "c")
NETWORKS = ("front", "ingress")


def address(node: str) -> str:
    return f"10.99.0.{NODES.index(node) + 1}"


def node(
    name: str, probe: NodeProbe | None = None, state: str = "ready", silence: str = "", message: str = ""
) -> ProbedNode:
    return ProbedNode(name, state, message, address(name), probe, silence)


def probe(
    ways: dict[str, tuple[int, bool]] | None = None, *, silent: str = "", networks: tuple[str, ...] = NETWORKS,
    only: tuple[str, ...] = (), names: tuple[Names, ...] = (), managers: dict[str, str] | None = None,
    troubles: dict[str, str] | None = None,
) -> NodeProbe:  # fmt: skip
    """`ways`: peer → (largest packet, takes TCP), on all networks or on those in `only`."""
    broken = [
        Way(network, peer, "10.0.0.9", 1450, largest, tcp)
        for network in only or networks
        for peer, (largest, tcp) in (ways or {}).items()
    ]
    return NodeProbe(
        networks=networks, peers=2, names=4, silent_hosts=tuple(Host(peer, address(peer)) for peer in silent),
        broken_ways=tuple(broken), broken_names=names, silent_managers=managers or {}, troubles=troubles or {},
    )  # fmt: skip


def told(*nodes: ProbedNode) -> list[str]:
    return findings(ProbedNodes(4789, nodes))


DEAD, WHOLE = (0, False), probe()

CASES = {
    "all is well": (node("a", WHOLE), node("b", WHOLE), []),
    "a host that answers no ping is merely quiet": (node("a", probe(silent="b")), node("b", WHOLE), []),
    "hosts apart": (
        node("a", probe({"b": DEAD}, silent="b")),
        node("b", probe({"a": DEAD}, silent="a")),
        ["a (10.99.0.1) and b (10.99.0.2) do not reach each other: pings between the hosts get no answer. "
         "Look at cables, routes and firewalls between them."],
    ),
    "tunnels blocked": (
        node("a", probe({"b": DEAD})),
        node("b", probe({"a": DEAD})),
        ["a and b reach each other's hosts, but nothing passes through the tunnels between them. "
         "Let UDP port 4789 (VXLAN) pass, both ways."],
    ),
    "one network dead": (
        node("a", probe({"b": DEAD}, only=("front",))),
        node("b", WHOLE),
        ["On network front nothing passes between a and b, on others it does. Entries that were altered are mended "
         "within 30 s; if this stays, look at the agents' logs."],
    ),
    "large packets lost": (
        node("a", probe({"b": (1350, True)}, only=("front",))),
        node("b", WHOLE),
        ["On network front packets of 1450 bytes are lost between a and b; of 1350 bytes they pass. Something on the "
         "way carries less than 1500 bytes: raise its MTU, or make the network anew with mtu: 1350."],
    ),
    "pings pass and TCP does not": (
        node("a", probe({"b": (1450, False)}, only=("front",))),
        node("b", WHOLE),
        ["On network front pings pass between a and b, TCP connections do not: a firewall drops what comes from the "
         "network's bridge, or a network card spoils checksums (try `ethtool -K DEVICE tx-checksum-ip-generic off`)."],
    ),
    "no names": (
        node("a", probe(names=(Names("front", "10.0.1.5"),))),
        node("b", WHOLE),
        ["The name service of a does not answer on network front (10.0.1.5): containers there find no names. "
         "`shoal status` on a tells how it is."],
    ),
    "a stale name": (
        node("a", probe(names=(Names("front", "10.0.1.5", True, (WrongName("web", ("10.0.1.9",), ("10.0.1.2",)),)),))),
        node("b", WHOLE),
        ["On a the name web leads to 10.0.1.9 on network front, and should lead to 10.0.1.2."],
    ),
    "a missing name": (
        node("a", probe(names=(Names("front", "10.0.1.5", True, (WrongName("web", (), ("10.0.1.2", "10.0.1.3")),)),))),
        node("b", WHOLE),
        ["On a the name web is not known on network front, and should lead to 10.0.1.2 and 10.0.1.3."],
    ),
    "a manager out of reach": (
        node("a", WHOLE),
        node("b", probe(managers={"10.99.0.1:2377": "Connection refused"})),
        ["b cannot connect to the manager at 10.99.0.1:2377: Connection refused. Let that TCP port pass."],
    ),
    "a network that the kernel refuses": (
        node("a", probe(troubles={"front": "File exists"})),
        node("b", WHOLE),
        ["Network front is not whole on a: File exists."],
    ),
    "a host cut off, of which nothing is known yet": (
        node("a", probe({"b": DEAD}, silent="b")),
        node("b", silence="no answer within 15 s"),
        ["The agent of b does not answer: no answer within 15 s. No other node reaches it at 10.99.0.2."],
    ),
    "a host that is down": (
        node("a", probe({"b": DEAD}, silent="b")),
        node("b", state="down", message="heartbeat failure", silence="not connected"),
        ["b is down (heartbeat failure). No other node reaches it at 10.99.0.2."],
    ),
    "an agent that hangs on a host that others reach": (
        node("a", WHOLE),
        node("b", silence="no answer within 15 s"),
        ["The agent of b does not answer: no answer within 15 s."],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("one", "other", "expected"), CASES.values(), ids=CASES.keys())
def test_what_was_found_is_said_in_sentences(one: ProbedNode, other: ProbedNode, expected: list[str]) -> None:
    assert told(one, other) == expected


def test_a_node_that_no_tunnel_leads_to_is_told_of_once() -> None:
    found = told(node("a", probe({"b": DEAD})), node("b", probe({"a": DEAD, "c": DEAD})), node("c", probe({"b": DEAD})))
    assert len(found) == 1
    assert found[0].startswith("b and each of a and c reach each other's hosts")


def test_pairs_are_told_once_by_the_node_that_has_most_of_them() -> None:
    pairs = [("a", "b"), ("b", "a"), ("c", "b"), ("d", "e")]
    assert list(grouped(pairs)) == [("b", ["a", "c"]), ("d", ["e"])]


def test_a_network_in_order_is_summed_up() -> None:
    assert summary(ProbedNodes(4789, (node("a", WHOLE), node("b", WHOLE)))) == (
        "2 nodes on 2 networks (front, ingress): all reach each other, also with the largest packets; "
        "4 names asked for led where they should"
    )
    alone = NodeProbe(networks=("ingress",))
    assert summary(ProbedNodes(4789, (node("a", alone),))) == "1 node on 1 network (ingress): nothing is wrong"
    nowhere = "2 nodes, none of them on a network to look at: nothing is wrong"
    assert summary(ProbedNodes(4789, (node("a", NodeProbe()), node("b", NodeProbe())))) == nowhere
