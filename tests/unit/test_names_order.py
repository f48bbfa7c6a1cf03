"""What the agent tells the name service, and when: before and after what the network does."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest

from nodeagent.assignments import Assignments
from nodeagent.dns.named import NamedNetwork
from nodeagent.dns.upstream import parse_resolv_conf
from nodeagent.dns.zone import Facts, Rank
from nodeagent.ports import ContainerNetwork
from shoal.api.errors import DataplaneError
from shoal.api.meta import Meta, Ref
from shoal.api.objects import (
    Attachment,
    AttachmentSpec,
    EndpointNetwork,
    EndpointSpec,
    Object,
    ServiceEndpoint,
    Task,
    TaskAddress,
)
from shoal.machinery.factories import make_network, make_service, make_task

pytestmark = pytest.mark.anyio

FRONT = make_network("front", subnet="10.0.1.0/24")
INGRESS = make_network("ingress", ingress=True)
NODE = Ref("alpha", "n1")


class Scene:
    """A network and a name service that note, in order, what they are asked for."""

    def __init__(self) -> None:
        self.happened: list[str] = []
        self.known: dict[str, Facts] = {}
        self.told = 0
        self.fails = False
        self.network = NamedNetwork(self, self, "n1")
        self.objects: list[Object] = [
            FRONT,
            INGRESS,
            attachment(FRONT.metadata.uid, "10.0.1.5/24"),
            attachment(INGRESS.metadata.uid, "10.0.0.5/24"),
        ]

    async def bring(self, put: Mapping[str, Facts], gone: Collection[str], everything: Mapping[str, Facts]) -> None:
        self.told += len(put) + len(gone)
        self.known = {key: fact for key, fact in {**self.known, **put}.items() if key not in gone}
        assert self.known == everything
        self.happened.append("names: " + " ".join(self.names()))

    async def prepare(self, task: Task) -> ContainerNetwork:
        return ContainerNetwork(search=("corp",))

    async def complete(self, task: Task, pid: int) -> None:
        pass

    def distrust(self) -> None:
        pass

    async def program(self, assignments: Assignments) -> None:
        self.happened.append("rules")
        if self.fails:
            raise DataplaneError("nft", "no")

    async def cleanup(self) -> None:
        self.happened.append("cleaned")

    def names(self) -> list[str]:
        return sorted(
            f"{one.name}={one.address}" for fact in self.known.values() for one in fact.records if one.rank is Rank.VIP
        )

    async def become(self, *services: ServiceEndpoint) -> list[str]:
        """Program what there is now, and return what happened meanwhile."""
        self.happened.clear()
        await self.network.program(Assignments().replaced([*self.objects, *services], 1))
        return self.happened


def attachment(network: str, address: str) -> Attachment:
    name = f"of-{network}"
    return Attachment(metadata=Meta(name=name), spec=AttachmentSpec(Ref(name, network), NODE, address=address))


def service(name: str, vip: str) -> ServiceEndpoint:
    front = Ref("front", FRONT.metadata.uid)
    spec = EndpointSpec(Ref(name, name), networks=(EndpointNetwork(front, vip),))
    return ServiceEndpoint(metadata=Meta(name=name), spec=spec)


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_a_name_comes_after_the_rules_it_leads_to(scene: Scene) -> None:
    assert await scene.become(service("web", "10.0.1.2/24")) == ["names: ", "rules", "names: web=10.0.1.2"]


async def test_a_name_goes_before_the_rules_it_led_to(scene: Scene) -> None:
    await scene.become(service("web", "10.0.1.2/24"), service("db", "10.0.1.3/24"))
    assert await scene.become(service("db", "10.0.1.3/24")) == ["names: db=10.0.1.3", "rules", "names: db=10.0.1.3"]


async def test_a_name_that_leads_elsewhere_goes_first_and_comes_last(scene: Scene) -> None:
    await scene.become(service("web", "10.0.1.2/24"))
    assert await scene.become(service("web", "10.0.1.9/24")) == ["names: ", "rules", "names: web=10.0.1.9"]


async def test_a_name_waits_for_rules_that_failed_at_first(scene: Scene) -> None:
    scene.fails = True
    with pytest.raises(DataplaneError):
        await scene.become(service("web", "10.0.1.2/24"))
    assert scene.happened == ["names: ", "rules"]
    with pytest.raises(DataplaneError):
        await scene.become(service("web", "10.0.1.2/24"))
    assert scene.names() == []

    scene.fails = False

    assert await scene.become(service("web", "10.0.1.2/24")) == ["names: ", "rules", "names: web=10.0.1.2"]


async def test_a_name_that_waits_and_goes_is_never_told(scene: Scene) -> None:
    scene.fails = True
    with pytest.raises(DataplaneError):
        await scene.become(service("web", "10.0.1.2/24"))
    scene.fails = False
    assert await scene.become() == ["names: ", "rules", "names: "]


async def test_one_change_among_many_is_told_alone(scene: Scene) -> None:
    many = [service(f"s{at}", f"10.0.1.{at}/24") for at in range(10, 200)]
    await scene.become(*many)
    scene.told = 0
    await scene.become(*many[1:], service("s10", "10.0.1.9/24"))
    assert scene.told == 2, "once without its name, and once with it"


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        pytest.param((FRONT,), ("10.0.1.5",), id="this node's address on its network"),
        pytest.param((INGRESS, FRONT), ("10.0.1.5",), id="on the first that has names"),
        pytest.param((INGRESS,), (), id="on the ingress network the engine's own"),
        pytest.param((), (), id="without a network the engine's own"),
    ],
)
async def test_a_container_asks_the_node_it_is_on(
    scene: Scene, networks: tuple[Object, ...], expected: tuple[str, ...]
) -> None:
    await scene.become()
    refs = [Ref(one.metadata.name, one.metadata.uid) for one in networks]
    task = make_task(make_service(), addresses=tuple(TaskAddress(ref, "10.0.1.7/24", "m") for ref in refs))

    assert await scene.network.prepare(task) == ContainerNetwork(nameservers=expected, search=("corp",))


async def test_cleaning_up_is_the_networks(scene: Scene) -> None:
    await scene.network.cleanup()
    assert scene.happened == ["cleaned"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("nameserver 192.0.2.1\nnameserver 192.0.2.2 # second\n", ("192.0.2.1", "192.0.2.2")),
        ("# nameserver 192.0.2.9\n; nameserver 192.0.2.8\nsearch corp\noptions ndots:2\nnameserver\t::1\n", ("::1",)),
        ("nameserver fe80::1%eth0\n", ("fe80::1%eth0",)),
        ("nameserver\nnameserver none\nnameserver 192.0.2.1\nnameserver 192.0.2.1\n", ("192.0.2.1",)),
        ("".join(f"nameserver 192.0.2.{at}\n" for at in range(9)), ("192.0.2.0", "192.0.2.1", "192.0.2.2")),
    ],
)
def test_the_name_servers_of_a_resolv_conf(text: str, expected: tuple[str, ...]) -> None:
    assert parse_resolv_conf(text) == expected
