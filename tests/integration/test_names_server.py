"""The name service on real sockets: over UDP and TCP, with resolvers that answer, fail, lie or are silent."""

from __future__ import annotations

import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from dnslib import EDNS0, QTYPE, RCODE, RR, A, DNSHeader, DNSQuestion, DNSRecord

from nodeagent.dns import server as server_module
from nodeagent.dns import upstream as upstream_module
from nodeagent.dns.answers import Answers
from nodeagent.dns.server import Server
from nodeagent.dns.upstream import HostResolvers, Upstream
from nodeagent.dns.zone import Asker, Facts, Listener, NetworkFact, Rank, Record

pytestmark = pytest.mark.anyio

OURS, OURS_TOO = "127.53.0.5", "127.53.1.5"
TASK, OTHER_TASK = "127.53.0.10", "127.53.0.11"
FIRST, SECOND = "127.53.9.1", "127.53.9.2"
WITHIN_S = 20.0

WORLD = {
    "front": Facts(network=NetworkFact("uf", "front", ("127.53.0.0/24",))),
    "back": Facts(network=NetworkFact("ub", "back", ("127.53.1.0/24",))),
    "node": Facts(listener=Listener("uf", OURS)),
    "task": Facts(askers=(Asker(TASK, ("uf",)),)),
    "other": Facts(askers=(Asker(OTHER_TASK, ("uf",)),)),
    "web": Facts(records=(Record("uf", "web", Rank.VIP, "10.0.1.2"),)),
    "tasks": Facts(records=tuple(Record("uf", "tasks.web", Rank.SERVICE, f"10.0.1.{at}") for at in range(20, 220))),
}


class Resolver:
    """A resolver of the world: `how` makes answers of a query; none = it is silent."""

    def __init__(self, how: Callable[[bytes], list[bytes]]) -> None:
        self.how = how
        self.asked: list[str] = []

    async def serve(self, address: str, port: int, task_status: Any) -> None:
        udp = await anyio.create_udp_socket(local_host=address, local_port=port)
        tcp = await anyio.create_tcp_listener(local_host=address, local_port=port)

        async def converse(stream: anyio.abc.SocketStream) -> None:
            async with stream:
                query = await stream.receive()
                for answer in self._answers(query[2:]):
                    await stream.send(len(answer).to_bytes(2, "big") + answer)

        async with udp, tcp, anyio.create_task_group() as group:
            group.start_soon(tcp.serve, converse)
            task_status.started()
            async for query, peer in udp:
                for answer in self._answers(query):
                    await udp.sendto(answer, *peer)

    def _answers(self, query: bytes) -> list[bytes]:
        self.asked.append(str(DNSRecord.parse(query).q.qname))
        return self.how(query)


def knows(address: str) -> Callable[[bytes], list[bytes]]:
    def answer(query: bytes) -> list[bytes]:
        reply = DNSRecord.parse(query).reply()
        reply.add_answer(RR(reply.q.qname, QTYPE.A, rdata=A(address), ttl=60))
        return [bytes(reply.pack())]

    return answer


def fails(query: bytes) -> list[bytes]:
    reply = DNSRecord.parse(query).reply()
    reply.header.rcode = RCODE.SERVFAIL
    return [bytes(reply.pack())]


def lies_first(query: bytes) -> list[bytes]:
    """Somebody else's answers, garbage, and then the right one."""
    (right,) = knows("192.0.2.1")(query)
    wrong_id = bytes([right[0] ^ 1]) + right[1:]
    (wrong_name,) = knows("192.0.2.66")(bytes(DNSRecord(DNSHeader(id=0), q=DNSQuestion("evil.test")).pack()))
    return [wrong_id, right[:2] + wrong_name[2:], right[:2], b"", right]


def silent(_: bytes) -> list[bytes]:
    return []


class Scene:
    def __init__(self, group: anyio.abc.TaskGroup, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind((OURS, 0))
            self.port = probe.getsockname()[1]
        self.group = group
        self.resolv_conf = folder / "resolv.conf"
        self.answers = Answers()
        self.answers.change(WORLD, ())
        hosts = HostResolvers(self.resolv_conf)
        self.server = Server(
            self.answers, Upstream(hosts.addresses, lambda: self.server.addresses(), self.port), self.port
        )

    def uses(self, *addresses: str) -> None:
        """The host's resolvers are these from now on."""
        new = self.resolv_conf.with_suffix(".new")
        new.write_text("".join(f"nameserver {address}\n" for address in addresses))
        new.rename(self.resolv_conf)

    async def resolver(self, address: str, how: Callable[[bytes], list[bytes]]) -> Resolver:
        found = Resolver(how)
        await self.group.start(found.serve, address, self.port)
        return found

    async def ask(self, name: str, **how: Any) -> tuple[str, list[str]]:
        """Return (rcode, addresses), as the task asks."""
        record = await self.asked(name, **how)
        return RCODE.get(record.header.rcode), sorted(str(rr.rdata) for rr in record.rr)

    async def asked(
        self, name: str, kind: str = "A", *, tcp: bool = False, asker: str = TASK, edns: int = 0, at: str = OURS
    ) -> DNSRecord:
        query = DNSRecord(DNSHeader(rd=1), q=DNSQuestion(name, QTYPE.reverse[kind]))
        if edns:
            query.add_ar(EDNS0(udp_len=edns))
        packed = bytes(query.pack())
        with anyio.fail_after(WITHIN_S):
            if not tcp:
                async with await anyio.create_connected_udp_socket(at, self.port, local_host=asker) as udp:
                    await udp.send(packed)
                    answer = await udp.receive()
            else:
                async with await anyio.connect_tcp(at, self.port, local_host=asker) as stream:
                    answer = await over(stream, packed)
        found = DNSRecord.parse(answer)
        assert (found.header.id, found.header.qr) == (query.header.id, 1)
        return found


async def over(stream: anyio.abc.SocketStream, query: bytes) -> bytes:
    """Ask over a TCP connection."""
    await stream.send(len(query).to_bytes(2, "big") + query)
    found = await stream.receive()
    while len(found) < 2 + int.from_bytes(found[:2], "big"):
        found += await stream.receive()
    return found[2:]


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Scene]:
    async with anyio.create_task_group() as group:
        scene = Scene(group, folder)
        group.start_soon(scene.server.run)
        with anyio.fail_after(WITHIN_S):
            while OURS not in scene.server.addresses():
                await anyio.sleep(0.01)
        yield scene
        group.cancel_scope.cancel()


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(upstream_module, "LOOK_EVERY_S", 0.0)
    async with running(tmp_path) as found:
        yield found


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
async def test_names_are_answered(scene: Scene, tcp: bool) -> None:
    assert await scene.ask("web.FRONT", tcp=tcp) == ("NOERROR", ["10.0.1.2"])
    assert await scene.ask("web", kind="AAAA", tcp=tcp) == ("NOERROR", [])


async def test_what_is_too_long_for_udp_comes_over_tcp(scene: Scene) -> None:
    short, longer = await scene.asked("tasks.web"), await scene.asked("tasks.web", edns=4096)
    assert (short.header.tc, len(short.rr), longer.header.tc, len(longer.rr)) == (1, 30, 1, 74)
    assert len((await scene.ask("tasks.web", tcp=True))[1]) == 200


async def test_several_questions_follow_each_other_over_one_connection(scene: Scene) -> None:
    async with await anyio.connect_tcp(OURS, scene.port, local_host=TASK) as stream:
        for number in range(3):
            answer = await over(stream, bytes(DNSRecord(DNSHeader(id=number), q=DNSQuestion("web")).pack()))
            assert DNSRecord.parse(answer).header.id == number


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize(
    ("first", "expected"),
    [
        pytest.param(knows("192.0.2.1"), "192.0.2.1", id="the first resolver answers"),
        pytest.param(fails, "192.0.2.2", id="the first fails"),
        pytest.param(None, "192.0.2.2", id="the first does not exist"),
        pytest.param(silent, "192.0.2.2", id="the first is silent"),
        pytest.param(lies_first, "192.0.2.1", id="others' answers do not count"),
    ],
)
async def test_foreign_names_are_asked_of_the_hosts_resolvers(
    scene: Scene, first: Callable[[bytes], list[bytes]] | None, expected: str, tcp: bool
) -> None:
    if tcp and first is lies_first:
        first = knows("192.0.2.1")  # nobody else can speak on a connection
    if first is not None:
        await scene.resolver(FIRST, first)
    await scene.resolver(SECOND, knows("192.0.2.2"))
    scene.uses(FIRST, SECOND)

    assert await scene.ask("example.org", tcp=tcp) == ("NOERROR", [expected])


async def test_a_resolver_that_was_silent_is_asked_after_the_others(scene: Scene) -> None:
    first, second = await scene.resolver(FIRST, silent), await scene.resolver(SECOND, knows("192.0.2.2"))
    scene.uses(FIRST, SECOND)

    for name in ("one.test", "two.test", "three.test"):
        assert await scene.ask(name) == ("NOERROR", ["192.0.2.2"])

    assert first.asked == ["one.test."]
    assert second.asked == ["one.test.", "two.test.", "three.test."]


async def test_without_a_resolver_foreign_names_fail_at_once_and_ours_do_not(scene: Scene) -> None:
    assert await scene.ask("example.org") == ("SERVFAIL", [])
    scene.uses(FIRST)
    assert await scene.ask("example.org") == ("SERVFAIL", [])
    assert await scene.ask("web") == ("NOERROR", ["10.0.1.2"])


async def test_a_failure_that_all_agree_on_is_passed_on(scene: Scene) -> None:
    asked = await scene.resolver(FIRST, fails)
    scene.uses(FIRST)
    assert await scene.ask("example.org") == ("SERVFAIL", [])
    assert asked.asked == ["example.org."]


async def test_a_changed_resolv_conf_counts_at_once(scene: Scene) -> None:
    await scene.resolver(FIRST, knows("192.0.2.1"))
    await scene.resolver(SECOND, knows("192.0.2.2"))
    scene.uses(FIRST)
    assert await scene.ask("example.org") == ("NOERROR", ["192.0.2.1"])
    scene.uses(SECOND)
    assert await scene.ask("example.org") == ("NOERROR", ["192.0.2.2"])


async def test_we_never_ask_ourselves(scene: Scene) -> None:
    scene.uses(OURS)
    assert await scene.ask("example.org") == ("SERVFAIL", [])


async def test_one_asker_s_foreign_names_leave_room_for_the_others(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MOST_FORWARDED_EACH", 5)
    resolver = await scene.resolver(FIRST, silent)
    scene.uses(FIRST)
    async with await anyio.create_connected_udp_socket(OURS, scene.port, local_host=TASK) as flood:
        for number in range(50):
            await flood.send(bytes(DNSRecord(DNSHeader(id=number), q=DNSQuestion(f"n{number}.test")).pack()))
        with anyio.fail_after(WITHIN_S):
            refused = [DNSRecord.parse(await flood.receive()) for _ in range(45)]
        assert {RCODE.get(one.header.rcode) for one in refused} == {"SERVFAIL"}
        resolver.how = knows("192.0.2.1")

        assert await scene.ask("example.org", asker=OTHER_TASK) == ("NOERROR", ["192.0.2.1"])
        assert await scene.ask("web") == ("NOERROR", ["10.0.1.2"])


async def test_one_asker_s_connections_leave_room_for_the_others(scene: Scene) -> None:
    held = [
        await anyio.connect_tcp(OURS, scene.port, local_host=TASK) for _ in range(server_module.MOST_CONNECTIONS_EACH)
    ]
    async with await anyio.connect_tcp(OURS, scene.port, local_host=TASK) as one_more:
        with anyio.fail_after(WITHIN_S), pytest.raises(anyio.EndOfStream):
            await one_more.receive()
    assert await scene.ask("web", tcp=True, asker=OTHER_TASK) == ("NOERROR", ["10.0.1.2"])
    for stream in held:
        await stream.aclose()
    with anyio.fail_after(WITHIN_S):
        while scene.server._connections.total():
            await anyio.sleep(0.01)
    assert await scene.ask("web", tcp=True) == ("NOERROR", ["10.0.1.2"])


async def test_what_is_remembered_is_answered_while_the_event_loop_is_busy(scene: Scene) -> None:
    for name in ("web", "tasks.web"):
        await scene.ask(name)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:  # it blocks, and the loop with it
        asker.settimeout(WITHIN_S)
        asker.bind((TASK, 0))
        for number, name in enumerate(("web", "tasks.web", "web")):
            asker.sendto(bytes(DNSRecord(DNSHeader(id=number, rd=1), q=DNSQuestion(name)).pack()), (OURS, scene.port))
            assert DNSRecord.parse(asker.recv(4096)).header.id == number


async def test_garbage_is_survived(scene: Scene, seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    noise = [chance.randbytes(length) for length in (0, 1, 11, 12, 13, 40, 512, 4097, 9000)] * 20
    async with await anyio.create_connected_udp_socket(OURS, scene.port, local_host=TASK) as udp:
        for data in noise:
            await udp.send(data)
    for data in noise[:9]:
        async with await anyio.connect_tcp(OURS, scene.port, local_host=TASK) as stream:
            await stream.send(data)
    for tcp in (False, True):
        assert await scene.ask("web", tcp=tcp) == ("NOERROR", ["10.0.1.2"])


async def test_we_listen_where_our_networks_are(scene: Scene) -> None:
    scene.answers.change({"second": Facts(listener=Listener("ub", OURS_TOO))}, ())
    scene.server.refresh()
    assert await scene.ask("web", at=OURS_TOO) == ("NOERROR", ["10.0.1.2"])

    scene.answers.change({}, ["node"])
    scene.server.refresh()

    assert scene.server.addresses() == {OURS_TOO}
    with pytest.raises(OSError, match="attempts failed"):
        await anyio.connect_tcp(OURS, scene.port)


async def test_an_address_somebody_else_holds_is_told_and_taken_later(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "OPEN_AGAIN_S", 0.1)
    with socket.socket() as holder:
        holder.bind((OURS_TOO, scene.port))
        holder.listen()
        scene.answers.change({"second": Facts(listener=Listener("ub", OURS_TOO))}, ())
        scene.server.refresh()
        (trouble,) = scene.server.troubles()
        assert OURS_TOO in trouble
        assert await scene.ask("web", at=OURS_TOO) == ("NOERROR", ["10.0.1.2"])
    with anyio.fail_after(WITHIN_S):
        while scene.server.troubles():
            await anyio.sleep(0.05)
    assert await scene.ask("web", at=OURS_TOO, tcp=True) == ("NOERROR", ["10.0.1.2"])
