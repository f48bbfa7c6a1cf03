"""TLS between hosts: who trusts whom, and how a key reaches the TLS library without lying on a disk.

A manager's certificate names SERVER_NAME, whatever address it is reached at, so that clients check the role and not
the way. A worker's certificate is no server's: it cannot pose as a manager.
"""

from __future__ import annotations

import asyncio.sslproto
import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from shoal.machinery.pki import Pair

SERVER_NAME: Final = "swarm-manager"

READ_BYTES: Final = 16 << 10
"""What a connection reads at once: the most that one TLS record holds. asyncio keeps a buffer of this size for each
connection, 256 KiB unless told otherwise; with two connections of a thousand agents that would be half a gigabyte."""

asyncio.sslproto.SSLProtocol.max_size = READ_BYTES


def server_context(authority: bytes) -> ssl.SSLContext:
    """Return a server's context without a certificate yet (see `load_pair`).

    A client's certificate is checked if it sends one; what may be done without one is the application's decision.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_OPTIONAL
    return _trusting(context, authority)


def client_context(authority: bytes, chain: Path | None = None) -> ssl.SSLContext:
    """Return a client's context that trusts one authority (PEM); `chain` holds our own certificate and key, if any."""
    context = _trusting(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), authority)
    if chain is not None:
        context.load_cert_chain(chain)
    return context


def trusting_context() -> ssl.SSLContext:
    """Return a client's context that trusts anybody: good only for fetching a certificate that is checked otherwise."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def load_pair(context: ssl.SSLContext, pair: Pair) -> None:
    """Give a context its certificate; connections made from now on use it. The key passes through memory only."""
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pair.certificate + pair.key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _trusting(context: ssl.SSLContext, authority: bytes) -> ssl.SSLContext:
    """A root brought by a user may itself be signed by another: it is trusted as it is."""
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=authority.decode())
    return context
