"""Joining, and what a certificate is good for: a real TLS door of the API server, and clients of every kind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import msgspec
import pytest
from anyio.streams.tls import TLSAttribute
from cryptography import x509

from apiserver.attempts import MOST_PER_S
from shoal.api import keys
from shoal.api import objects as o
from shoal.api.errors import AlreadyExistsError, ForbiddenError, InvalidError, ShoalError, UnavailableError
from shoal.api.states import Availability, DesiredState, NodeState, TaskState
from shoal.api.tokens import Token, parse_token
from shoal.api.units import Duration
from shoal.host import joining
from shoal.host.joining import Joined, Newcomer, Remote
from shoal.machinery.factories import make_node, make_service, make_task
from shoal.machinery.pki import Subject, general_name, make_authority, make_key, make_request, names_of
from shoal.machinery.tls import SERVER_NAME, trusting_context
from tests.support import eventually
from tests.support.api import Api, running_api
from tests.support.door import BOSS, Client, Door, open_door

pytestmark = pytest.mark.anyio

N1, N2 = make_node("n1", address="10.0.0.2"), make_node("n2", address="10.0.0.3")
WEB = make_service("web")
MINE = make_task(WEB, 1, node=N1, state=TaskState.RUNNING)
THEIRS = make_task(WEB, 2, node=N2, state=TaskState.RUNNING)
ACTIVE = Availability.ACTIVE


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with open_door(tmp_path) as found:
        yield found


async def join(door: Door, name: str = "new", address: str = "10.0.0.9", **options: Any) -> Joined:
    token = parse_token(options.pop("token", None) or await door.token())
    joined, _ = await joining.join(door.remote, token, Newcomer(name, address, **{"availability": ACTIVE, **options}))
    return joined


async def test_a_host_that_joins_is_a_node_with_a_certificate_of_its_own(door: Door) -> None:
    joined = await join(door, availability=Availability.DRAIN)

    certificate = x509.load_pem_x509_certificate(joined.certificate.encode())
    assert [part.value for part in certificate.subject] == [door.cluster.metadata.uid, "swarm-worker", joined.node]
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=89) < left <= timedelta(days=90)
    _, node = await door.api.get(f"nodes/{joined.node}")
    assert (node["metadata"]["name"], node["status"]["address"]) == ("new", "10.0.0.9")
    assert node["spec"] == {"role": "worker", "availability": "drain"}
    assert joined.managers == (str(door.remote),)


async def test_a_token_is_of_the_root_and_only_the_rotated_one_changes(door: Door) -> None:
    worker, manager = await door.token(), await door.token("manager")
    _, rotated = await door.api.post("tokens/rotate", {"role": "worker"})

    assert parse_token(rotated["worker"]).digest == parse_token(worker).digest == parse_token(manager).digest
    assert rotated["worker"] != worker
    assert rotated["manager"] == manager
    with pytest.raises(ForbiddenError, match="not valid, or was rotated"):
        await join(door, token=worker)
    assert await join(door)


async def test_neither_tokens_nor_the_roots_key_lie_in_the_store_in_the_clear(door: Door) -> None:
    await door.api.post("tokens/rotate", {"role": "worker"})
    secrets = [parse_token(await door.token(role)).secret.encode() for role in ("worker", "manager")]
    key = b"".join(door.authority.key.splitlines()[1:-1])
    for item in (await door.api.store.list("/shoal/")).items:
        assert not any(secret in item.value for secret in (*secrets, key, b"PRIVATE KEY"))


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        pytest.param({"secret": "0" * 25}, ForbiddenError, "not valid, or was rotated", id="a wrong secret"),
        pytest.param({"digest": "0" * 50}, ForbiddenError, "does not match the join token", id="a wrong digest"),
    ],
)
async def test_a_wrong_token(door: Door, change: dict[str, str], error: type[ShoalError], said: str) -> None:
    token = msgspec.structs.replace(parse_token(await door.token()), **change)
    with pytest.raises(error, match=said):
        await join(door, token=str(token))
    assert {node.metadata.name for node in door.api.server.mirror.cache.all(o.Node).values()} == {"boss"}


async def test_a_managers_token_is_refused_while_there_can_be_only_one(door: Door) -> None:
    with pytest.raises(ForbiddenError, match="joining as a manager is not available yet"):
        await join(door, token=await door.token("manager"))


@pytest.mark.parametrize(
    ("name", "address", "error", "said"),
    [
        pytest.param("boss", "10.0.0.9", AlreadyExistsError, "a node called boss", id="a name that is taken"),
        pytest.param("new", "10.0.0.1", AlreadyExistsError, "boss .* has the address 10.0.0.1", id="an address, too"),
        pytest.param("../etc", "10.0.0.9", InvalidError, "expected a host's name", id="no name"),
        pytest.param("new", "10.0.0", InvalidError, "expected an IPv4 address", id="half an address"),
        pytest.param("new", "0.0.0.0", InvalidError, "no host's address", id="everybody's address"),
    ],
)
async def test_who_may_not_join(door: Door, name: str, address: str, error: type[ShoalError], said: str) -> None:
    with pytest.raises(error, match=said):
        await join(door, name, address)


async def test_a_host_whose_old_node_is_down_may_join_again(door: Door) -> None:
    status = o.NodeStatus(state=NodeState.DOWN, address="10.0.0.9")
    await door.api.seed(msgspec.structs.replace(make_node("new"), status=status))
    assert await join(door, "new", "10.0.0.9")


@pytest.mark.parametrize("shared", ["name", "address"])
async def test_two_servers_never_admit_one_name_or_address_twice(door: Door, tmp_path: Path, shared: str) -> None:
    token = await door.token()
    (tmp_path / "second").mkdir()
    answers: list[int] = []

    async def knock(api: Api, who: int, turn: int) -> None:
        own = {"name": f"n{turn}-{who}", "address": f"10.1.{turn}.{who}"}
        same = {"name": f"n{turn}", "address": f"10.2.{turn}.1"}
        body = {"token": token, "csr": make_request(make_key()).decode(), **own, shared: same[shared]}
        answers.append((await api.post("join", body))[0])

    async with running_api(tmp_path / "second", door.api.store) as second:
        for turn in range(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(knock, door.api, 1, turn)
                tasks.start_soon(knock, second, 2, turn)
    assert sorted(answers) == [201] * 5 + [409] * 5


async def test_a_name_and_an_address_are_free_again_with_their_node(door: Door) -> None:
    first = await join(door, "new", "10.0.0.9")
    assert (await door.api.delete(f"nodes/{first.node}?force=1"))[0] == 200
    second = await join(door, "new", "10.0.0.9")
    claims = [f"{keys.ROOT}claims/{one}" for one in ("node-name/new", "node-address/10.0.0.9")]
    held = [door.api.server.mirror.cache.get(o.Claim, key) for key in claims]
    assert [one.metadata.owner.uid for one in held if one and one.metadata.owner] == [second.node] * 2


async def test_a_signing_request_that_was_overheard_is_worth_nothing(door: Door) -> None:
    body = {"token": await door.token(), "csr": make_request(make_key()).decode(), "name": "new", "address": "10.0.0.9"}
    async with door.client() as client:
        status, joined = await client.call("POST", "join", body)
        assert status == 201
        await door.api.call("DELETE", f"nodes/{joined['node']}?force=1")
        assert (await client.call("POST", "join", body))[0] == 201  # a removed node's key is nobody's
        status, refused = await client.call("POST", "join", {**body, "name": "other", "address": "10.0.0.10"})
    assert (status, refused["message"]) == (409, "this signing request was used already")


async def test_who_guesses_is_slowed_down(door: Door) -> None:
    token = str(Token(parse_token(await door.token()).digest, "0" * 25))
    body = {"token": token, "csr": "x", "name": "new", "address": "10.0.0.9"}
    async with door.client() as client:
        statuses = [(await client.call("POST", "join", body))[0] for _ in range(MOST_PER_S + 3)]
    assert statuses[:MOST_PER_S] == [403] * MOST_PER_S
    assert 429 in statuses[MOST_PER_S:]


async def test_an_unreachable_manager_is_told() -> None:
    token = Token("0" * 50, "0" * 25)
    with pytest.raises(UnavailableError, match=r"no manager answers at 127\.0\.0\.1:1 "):
        await joining.join(Remote("127.0.0.1", 1), token, Newcomer("new", "10.0.0.9", ACTIVE))


async def test_a_root_with_the_right_certificate_but_without_its_key_is_not_believed(
    door: Door, tmp_path: Path
) -> None:
    """Somebody in between shows the true root, which is no secret, but cannot prove to be a manager."""
    (tmp_path / "other").mkdir()
    async with open_door(tmp_path / "other") as impostor:
        cluster = impostor.api.server.membership.cluster()
        true = door.cluster.status.ca_certificate
        status = msgspec.structs.replace(cluster.status, ca_certificate=true)
        await impostor.api.seed(msgspec.structs.replace(cluster, status=status))
        token = parse_token(await door.token())
        with pytest.raises(ForbiddenError, match="does not prove to be a manager"):
            await joining.join(impostor.remote, token, Newcomer("new", "10.0.0.9", ACTIVE))


async def test_a_certificate_is_renewed_for_its_owner(door: Door, tmp_path: Path) -> None:
    await door.api.seed(N1)
    chain, ca = door.certified(N1, lifetime=timedelta(minutes=5)), tmp_path / "ca.crt"
    ca.write_bytes(door.authority.certificate)

    renewed = await joining.renew(door.remote, ca, chain, N1.metadata.uid)

    certificate = x509.load_pem_x509_certificate(renewed)
    assert [part.value for part in certificate.subject] == [door.cluster.metadata.uid, "swarm-worker", N1.metadata.uid]
    assert certificate.not_valid_after_utc - datetime.now(UTC) > timedelta(days=89)
    chain.write_bytes(renewed)
    async with door.client(chain) as client:
        assert (await client.call("POST", f"nodes/{N1.metadata.uid}/status", {}))[0] == 200


async def is_refused(door: Door, chain: Path) -> bool:
    """Whether the door does not even speak with the holder of a certificate."""
    async with door.client(chain) as client:
        try:
            await client.call("GET", "/healthz")
        except aiohttp.ClientError:
            return True
    return False


async def test_certificates_that_tls_refuses(door: Door) -> None:
    await door.api.seed(N1)
    foreign = make_authority(Subject("swarm-ca"), datetime.now(UTC))
    assert not await is_refused(door, door.certified(N1))
    assert await is_refused(door, door.certified(N1, authority=foreign))
    assert await is_refused(door, door.certified(N1, ago=timedelta(days=2)))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"cluster": "another"}, id="another cluster under the same root"),
        pytest.param({"unit": "web-server"}, id="some other certificate of the same root"),
    ],
)
async def test_certificates_that_are_no_nodes(door: Door, options: dict[str, str]) -> None:
    await door.api.seed(N1)
    async with door.client(door.certified(N1, **options)) as client:
        status, refused = await client.call("POST", f"nodes/{N1.metadata.uid}/status", {})
    assert (status, refused["message"].startswith("nobody may not use POST")) == (403, True)


async def test_a_removed_node_is_refused_at_once_and_its_connections_end(door: Door) -> None:
    await door.api.seed(N1)
    url = f"nodes/{N1.metadata.uid}/assignments?watch=1"
    async with door.client(door.certified(N1)) as client:
        async with client.session.get(client.url(url), server_hostname=SERVER_NAME) as stream:
            assert await stream.content.readline()
            held = list(door.api.server.connections._open)
            await door.api.call("DELETE", f"nodes/{N1.metadata.uid}?force=1")
            with anyio.fail_after(2):
                while await stream.content.readline():
                    pass
        status, refused = await client.call("POST", f"nodes/{N1.metadata.uid}/status", {})

        async def are_closed() -> bool:
            return all(transport.is_closing() for transport in held)

        await eventually(are_closed, within=2)
    assert held
    assert (status, refused["reason"]) == (403, "Removed")


async def test_a_node_that_leaves_is_marked_and_its_certificate_is_dead(door: Door) -> None:
    await door.api.seed(N1)
    async with door.client(door.certified(N1)) as client:
        assert (await client.call("POST", f"nodes/{N1.metadata.uid}/leave", {}))[0] == 200
        status, refused = await client.call("POST", f"nodes/{N1.metadata.uid}/certificate", {"csr": ""})
    assert (status, refused["reason"]) == (403, "Removed")
    _, node = await door.api.get("nodes/n1")
    assert node["status"]["leftAt"]


async def test_a_connection_does_not_outlive_its_certificate(door: Door) -> None:
    await door.api.seed(N1)
    chain = door.certified(N1, lifetime=timedelta(seconds=2))
    url = f"nodes/{N1.metadata.uid}/assignments?watch=1"

    async def read_on(client: Client) -> None:
        async with client.session.get(client.url(url), server_hostname=SERVER_NAME) as stream:
            while not stream.content.at_eof():
                await stream.content.readline()

    async with door.client(chain) as client:
        with anyio.fail_after(10), pytest.raises(aiohttp.ClientPayloadError):
            await read_on(client)


async def test_agents_elsewhere_are_told_where_managers_answer(door: Door) -> None:
    await door.api.seed(N1)
    url = f"nodes/{N1.metadata.uid}/assignments?watch=1"
    async with (
        door.client(door.certified(N1)) as client,
        client.session.get(client.url(url), server_hostname=SERVER_NAME) as stream,
        door.api.stream(f"nodes/{BOSS.metadata.uid}/assignments?watch=1") as local,
    ):
        hello = msgspec.json.decode(await stream.content.readline())
        assert hello["managers"] == [f"https://{door.remote}"]
        assert hello["role"] == "worker"
        assert (await local.next())["managers"] == []


async def test_the_doors_own_certificate_is_a_managers_and_lives_as_long_as_the_setting_says(tmp_path: Path) -> None:
    async with open_door(tmp_path, certificate_expiry=Duration.of(3600)) as door:
        host, port = door.remote.host, door.remote.port
        async with await anyio.connect_tcp(host, port, ssl_context=trusting_context(), tls_hostname=host) as tls:
            certificate = x509.load_der_x509_certificate(tls.extra(TLSAttribute.peer_certificate_binary))
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    assert general_name(SERVER_NAME) in names_of(certificate)
    assert "swarm-manager" in [part.value for part in certificate.subject]


U1, U2 = N1.metadata.uid, N2.metadata.uid
SERVICE = {"apiVersion": "shoal/v1", "kind": "Service", "metadata": {"name": "mine"}, "spec": {"image": "x"}}
STATUS = {"tasks": {THEIRS.metadata.name: {"state": "failed"}}}

FORBIDDEN: list[tuple[str, str, Any]] = [
    *[("GET", plural, None) for plural in (
        "services", "tasks", "nodes", "networks", "secrets", "configs", "credentials", "clusters", "events", "claims",
        "refs", "revisions", "rollouts", "slots", "endpoints", "backends", "attachments",
    )],
    ("GET", "tasks?watch=1", None),
    ("GET", f"tasks/{MINE.metadata.name}", None),
    ("GET", f"nodes/{U1}", None),
    ("GET", "clusters/default", None),
    ("PATCH", "clusters/default", {"spec": {"heartbeatPeriod": "1h"}}),
    ("POST", "services", SERVICE),
    ("PUT", "services/web", SERVICE),
    ("PATCH", "services/web", {"spec": {"replicas": 9}}),
    ("DELETE", "services/web", None),
    ("POST", "apply", {"objects": [SERVICE]}),
    ("PATCH", f"nodes/{U1}", {"spec": {"role": "manager"}}),
    ("PATCH", f"nodes/{U1}", {"metadata": {"labels": {"zone": "a"}}}),
    ("PATCH", f"nodes/{U2}", {"spec": {"availability": "drain"}}),
    ("DELETE", f"nodes/{U2}", None),
    ("PUT", f"nodes/{U1}/status", {"state": "ready"}),
    ("GET", f"nodes/{U2}/assignments?watch=1", None),
    ("POST", f"nodes/{U2}/status", {}),
    ("POST", f"nodes/{U2}/events", []),
    ("POST", f"nodes/{U2}/answers/1", {}),
    ("POST", f"nodes/{U2}/certificate", {"csr": ""}),
    ("POST", f"nodes/{U2}/leave", {}),
    ("GET", "services/web/logs", None),
    ("GET", f"tasks/{THEIRS.metadata.name}/logs", None),
    ("GET", "top", None),
    ("GET", "tokens", None),
    ("POST", "tokens/rotate", {"role": "worker"}),
    ("GET", "/metrics", None),
    ("GET", "/openapi.json", None),
    ("GET", "/shoal/v1/brand-new", None),
    ("GET", "/somewhere", None),
]  # fmt: skip


async def test_what_a_workers_certificate_may_not_do(door: Door) -> None:
    await door.api.seed(N1, N2, WEB, MINE, THEIRS)
    before = (await door.api.store.list("/shoal/")).items
    wrong: list[Any] = []
    async with door.client(door.certified(N1)) as worker, door.client() as stranger:
        for who, client in (("worker", worker), ("stranger", stranger)):
            for method, path, body in FORBIDDEN:
                status, answer = await client.call(method, path, body)
                if status != 403:
                    wrong.append((who, method, path, status, answer))
    assert wrong == []
    assert len(FORBIDDEN) >= 30
    assert (await door.api.store.list("/shoal/")).items == before


async def test_what_a_worker_says_of_others_tasks_is_refused_and_of_its_own_is_taken(door: Door) -> None:
    await door.api.seed(N1, N2, WEB, MINE, THEIRS)
    async with door.client(door.certified(N1)) as client:
        status, receipt = await client.call("POST", f"nodes/{U1}/status", STATUS)
        assert (status, list(receipt["refused"])) == (200, [THEIRS.metadata.name])
        told = {"tasks": {MINE.metadata.name: {"state": "failed"}}}
        assert (await client.call("POST", f"nodes/{U1}/status", told))[1]["refused"] == {}
    _, theirs = await door.api.get(f"tasks/{THEIRS.metadata.name}")
    _, mine = await door.api.get(f"tasks/{MINE.metadata.name}")
    assert (theirs["status"]["state"], mine["status"]["state"]) == ("running", "failed")
    assert mine["spec"]["desiredState"] == DesiredState.RUNNING.value
