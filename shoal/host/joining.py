"""What a host asks of a manager over TLS: the root, to be let in, a renewed certificate, to be let go.

Before it has a certificate it trusts nobody: the root is fetched from whoever answers, and believed only if its digest
is the token's. The token itself is sent after that, to a server whose certificate that root has signed for a manager.
"""

from __future__ import annotations

import hmac
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Struct

from shoal.api.errors import (
    AlreadyExistsError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    RemovedError,
    ShoalError,
    TerminalError,
    ThrottledError,
    UnavailableError,
)
from shoal.api.states import Availability, Role
from shoal.api.tokens import Token, digest_of
from shoal.host.identity import API_PORT
from shoal.machinery.pki import key_to_pem, make_key, make_request, to_der
from shoal.machinery.tls import SERVER_NAME, client_context, trusting_context

CONNECT_S: Final = 5.0
ANSWER_S: Final = 20.0

_ERRORS: Final[Mapping[str, type[ShoalError]]] = {
    kind.reason: kind
    for kind in (
        AlreadyExistsError, ForbiddenError, InvalidError, NotFoundError, RemovedError, ThrottledError, UnavailableError,
    )
}  # fmt: skip

T = TypeVar("T")


class Remote(Struct, frozen=True):
    """Where a manager answers."""

    host: str
    port: int = API_PORT

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Newcomer(Struct, frozen=True):
    """What a host says of itself as it joins; `data_path` is its address for overlay traffic, "" = `address`."""

    name: str
    address: str
    availability: Availability
    data_path: str = ""


class Joined(Struct, frozen=True, rename="camel"):
    """What a manager answers to a host that it lets in."""

    node: str
    cluster: str
    incarnation: str
    role: Role
    certificate: str
    ca: str
    managers: tuple[str, ...]


class Renewed(Struct, frozen=True):
    certificate: str
    ca: str


class _Ca(Struct, frozen=True):
    certificate: str


def parse_remote(text: str) -> Remote:
    """Read HOST or HOST:PORT; InvalidError if it is neither. Pure."""
    host, colon, port = text.strip().removeprefix("tcp://").partition(":")
    if not host or (colon and (not port.isdigit() or not 0 < int(port) < 65536)) or "/" in text:
        raise InvalidError(f"expected a manager's HOST:PORT, such as 10.0.0.1:{API_PORT}, found {text!r}")
    return Remote(host, int(port)) if colon else Remote(host)


async def join(remote: Remote, token: Token, newcomer: Newcomer) -> tuple[Joined, bytes]:
    """Join; returns the manager's answer and the key (PEM) its certificate is for. Nothing is kept here."""
    authority = await _fetch_authority(remote, token)
    key = make_key()
    body = {
        "token": str(token), "csr": make_request(key).decode(), "name": newcomer.name, "address": newcomer.address,
        "availability": newcomer.availability.value, "dataPath": newcomer.data_path,
    }  # fmt: skip
    answer = await _call(remote, client_context(authority), "POST", "/shoal/v1/join", Joined, body)
    return answer, key_to_pem(key)


async def renew(remote: Remote, ca: Path, chain: Path, node: str) -> bytes:
    """Return a new certificate and its key (PEM, both) for a member. RemovedError if it is none any more."""
    key: ec.EllipticCurvePrivateKey = make_key()
    body = {"csr": make_request(key).decode()}
    path = f"/shoal/v1/nodes/{node}/certificate"
    answer = await _call(remote, _context(ca, chain), "POST", path, Renewed, body)
    return answer.certificate.encode() + key_to_pem(key)


async def say_goodbye(remote: Remote, ca: Path, chain: Path, node: str) -> None:
    """Tell a manager that this node leaves."""
    path = f"/shoal/v1/nodes/{node}/leave"
    await _call(remote, _context(ca, chain), "POST", path, dict[str, Any], {})


def _context(ca: Path, chain: Path) -> ssl.SSLContext:
    return client_context(ca.read_bytes(), chain)


async def _fetch_authority(remote: Remote, token: Token) -> bytes:
    """Return the root certificate (PEM) that the token speaks of; ForbiddenError if another one is there."""
    found = await _call(remote, trusting_context(), "GET", "/shoal/v1/ca", _Ca)
    certificate = found.certificate.encode()
    try:
        digest = digest_of(to_der(certificate))
    except ValueError as error:
        raise ForbiddenError(f"what answers at {remote} has no certificate authority to show") from error
    if not hmac.compare_digest(digest, token.digest):
        raise ForbiddenError(
            f"the certificate authority at {remote} does not match the join token: the token is of another cluster, "
            "or somebody stands between"
        )
    return certificate


async def _call(remote: Remote, tls: ssl.SSLContext, method: str, path: str, kind: type[T], body: object = None) -> T:
    timeout = aiohttp.ClientTimeout(total=ANSWER_S, sock_connect=CONNECT_S)
    data = msgspec.json.encode(body) if body is not None else None
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls), timeout=timeout) as session,
            session.request(
                method, f"https://{remote}{path}", data=data, server_hostname=SERVER_NAME,
                headers={"Content-Type": "application/json"},
            ) as answer,
        ):  # fmt: skip
            raw = await answer.read()
            if answer.status >= 400:
                raise _error(raw, answer.status, remote)
            return msgspec.json.decode(raw, type=kind)
    except aiohttp.ClientConnectorCertificateError as error:
        raise ForbiddenError(
            f"what answers at {remote} does not prove to be a manager of this cluster ({error.certificate_error})"
        ) from error
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        reason = getattr(error, "strerror", "") or str(error) or f"no answer within {ANSWER_S:.0f} s"
        raise UnavailableError(
            f"no manager answers at {remote} ({reason}): see that the address is right and the port open"
        ) from error
    except msgspec.DecodeError as error:
        raise TerminalError(f"what answers at {remote} is no manager of Shoal's: {error}") from error


def _error(raw: bytes, status: int, remote: Remote) -> ShoalError:
    """Return the error that an answer tells of."""
    try:
        found = msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.DecodeError:
        found = {}
    message = str(found.get("message") or f"{remote} answered with HTTP {status}")
    return _ERRORS.get(str(found.get("reason", "")), TerminalError)(message)
