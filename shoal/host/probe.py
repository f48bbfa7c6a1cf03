"""Asks a process whether it is ready: over HTTP, on its unix socket or, for etcd, with our client certificate."""

from __future__ import annotations

import ssl
from pathlib import Path

import aiohttp

from shoal.host.processes import Ready

ANSWER_WITHIN_S = 2.0


async def is_ready(ready: Ready, pki: Path) -> bool:
    """True if the process answers with 200; false for everything else, whatever went wrong. `pki`: etcd's."""
    try:
        connector, base = _way_to(ready, pki)
        timeout = aiohttp.ClientTimeout(total=ANSWER_WITHIN_S)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.get(base + ready.path) as answer,
        ):
            return answer.status == 200
    except (OSError, TimeoutError, aiohttp.ClientError):
        return False


def _way_to(ready: Ready, pki: Path) -> tuple[aiohttp.BaseConnector, str]:
    if ready.tls_port:
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(pki / "client.crt", pki / "client.key")
        return aiohttp.TCPConnector(ssl=context), f"https://127.0.0.1:{ready.tls_port}"
    return aiohttp.UnixConnector(str(ready.socket)), "http://localhost"
