"""The name service as a process: fed by an agent, alone, killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import anyio
import pytest
from dnslib import DNSQuestion, DNSRecord

from nodeagent import memory
from nodeagent.assignments import Assignments
from nodeagent.dns.feed import SOCKET
from nodeagent.dns.named import NamesLink
from nodeagent.dns.zone import Facts, Listener, NetworkFact, Rank, Record
from shoal.api.meta import Meta, Ref
from shoal.api.objects import Attachment, AttachmentSpec, EndpointNetwork, EndpointSpec, ServiceEndpoint
from shoal.machinery.factories import make_network

pytestmark = pytest.mark.anyio

NET = f"127.{os.getpid() % 250 + 2}.{os.getpid() // 250 % 250}"
"""A loopback network of this test run's own: the process listens on port 53 there."""
OURS = f"{NET}.5"
FRONT = make_network("front", subnet=f"{NET}.0/24")
UID = FRONT.metadata.uid
WITHIN_S = 30.0


class NameService:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "dns.log"
        self.socket = anyio.Path(folder / "run" / SOCKET)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "nodeagent.dns", "--node", "n1"),
                    *("--state-dir", str(self.folder / "state"), "--run-dir", str(self.folder / "run")),
                ],
                stdout=log,
                stderr=log,
            )

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(WITHIN_S)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[NameService]:
    found = NameService(tmp_path)
    yield found
    if found.process is not None and found.process.poll() is None:
        found.end(signal.SIGKILL)
    print(found.log.read_text() if found.log.exists() else "")


@pytest.fixture
async def links(tmp_path: Path) -> AsyncIterator[Callable[[], NamesLink]]:
    """Agents' connections to it, one after the other."""
    made: list[NamesLink] = []

    def link() -> NamesLink:
        made.append(NamesLink(tmp_path / "run" / SOCKET))
        return made[-1]

    yield link
    for one in made:
        await one.aclose()


async def ask(name: str) -> list[str] | None:
    """Return a name's addresses; None while nobody answers."""
    query = bytes(DNSRecord(q=DNSQuestion(name)).pack())
    try:
        with anyio.fail_after(2):
            async with await anyio.create_connected_udp_socket(OURS, 53, local_host=f"{NET}.9") as udp:
                await udp.send(query)
                return [str(rr.rdata) for rr in DNSRecord.parse(await udp.receive()).rr]
    except (OSError, TimeoutError, anyio.BrokenResourceError):
        return None


async def eventually(what: Callable[[], Awaitable[object]], expected: object) -> None:
    last = None
    try:
        with anyio.fail_after(WITHIN_S):
            while (last := await what()) != expected:
                await anyio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"expected {expected}, found {last}")


def told(vip: str) -> dict[str, Facts]:
    return {
        "front": Facts(network=NetworkFact(UID, "front", (f"{NET}.0/24",))),
        "node": Facts(listener=Listener(UID, OURS)),
        "web": Facts(records=(Record(UID, "web", Rank.VIP, vip),)),
    }


def stored(vip: str) -> Assignments:
    """What an agent knew last, as objects."""
    front = Ref("front", UID)
    endpoint = EndpointSpec(Ref("web", "s1"), networks=(EndpointNetwork(front, f"{vip}/24"),))
    return Assignments().replaced(
        [
            FRONT,
            Attachment(metadata=Meta(name="a"), spec=AttachmentSpec(front, Ref("alpha", "n1"), address=f"{OURS}/24")),
            ServiceEndpoint(metadata=Meta(name="web"), spec=endpoint),
        ],
        1,
    )


Links = Callable[[], NamesLink]


async def bring(link: NamesLink, facts: dict[str, Facts]) -> None:
    """Say all there is, as news and as the whole."""
    await link.bring(facts, (), facts)


async def test_it_answers_by_what_the_agent_stored_until_that_one_speaks(
    service: NameService, links: Links, tmp_path: Path
) -> None:
    memory.save(tmp_path / "state" / "agent", stored("10.0.1.2"))
    service.start()
    await eventually(lambda: ask("web.front"), ["10.0.1.2"])

    await bring(links(), told("10.0.1.3"))

    assert await ask("web.front") == ["10.0.1.3"]
    assert service.end(signal.SIGTERM) == 0


async def test_what_an_agent_has_brought_is_in_force_and_stays_when_it_goes(service: NameService, links: Links) -> None:
    service.start()
    await eventually(service.socket.exists, True)
    link = links()
    for vip in ("10.0.1.2", "10.0.1.3"):
        await bring(link, told(vip))
        assert await ask("web") == [vip]

    await link.aclose()

    assert await ask("web") == ["10.0.1.3"]
    await bring(links(), {key: fact for key, fact in told("").items() if key != "web"})
    assert await ask("web") == []


async def test_the_agent_goes_on_while_it_is_away_and_feeds_it_when_it_is_back(
    service: NameService, links: Links
) -> None:
    link, facts = links(), told("10.0.1.2")

    async def brought() -> list[str] | None:
        await bring(link, facts)
        return await ask("web")

    assert await brought() is None
    service.start()
    await eventually(brought, ["10.0.1.2"])
    service.end(signal.SIGKILL)
    assert await brought() is None

    service.start()

    await eventually(brought, ["10.0.1.2"])


async def test_one_that_hangs_holds_up_nobody_for_long(service: NameService, links: Links) -> None:
    service.start()
    await eventually(service.socket.exists, True)
    link = links()
    await bring(link, told("10.0.1.2"))
    assert service.process is not None
    service.process.send_signal(signal.SIGSTOP)
    with anyio.fail_after(WITHIN_S):
        await bring(link, told("10.0.1.3"))
    service.process.send_signal(signal.SIGCONT)

    await bring(link, told("10.0.1.4"))

    await eventually(lambda: ask("web"), ["10.0.1.4"])


async def test_garbage_from_whoever_opens_its_socket_is_survived(service: NameService, links: Links) -> None:
    service.start()
    await eventually(service.socket.exists, True)
    for garbage in (b"\n", b"garbage\n", b'{"number": "x"}\n', b'{"number": 1, "put": {"k": 3}}\n', b"half"):
        async with await anyio.connect_unix(str(service.socket)) as stream:
            await stream.send(garbage)

    await bring(links(), told("10.0.1.2"))

    assert await ask("web") == ["10.0.1.2"]
    assert oct((await service.socket.stat()).st_mode & 0o777) == "0o600"
