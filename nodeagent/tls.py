"""The node's certificate, as the host daemon keeps it on disk: loaded, and loaded anew when it was renewed."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

from shoal.machinery.tls import client_context


class NodeTls:
    """`context` serves every connection; one made after a renewal shows the new certificate."""

    def __init__(self, ca: Path, chain: Path) -> None:
        self._chain = chain
        self._seen = self._stamp()
        self.context: ssl.SSLContext = client_context(ca.read_bytes(), chain)

    def refresh(self) -> None:
        """Load the certificate again if its file was replaced."""
        stamp = self._stamp()
        if stamp != self._seen:
            self.context.load_cert_chain(self._chain)
            self._seen = stamp

    def trouble(self) -> str:
        """Tell that the certificate has ended, "" if it has not."""
        from cryptography import x509  # 4 MB, for an agent whose certificate may have ended

        until = x509.load_pem_x509_certificate(self._chain.read_bytes()).not_valid_after_utc
        if until > datetime.now(UTC):
            return ""
        return (
            f"this node's certificate ended on {until:%Y-%m-%d at %H:%M} UTC, and no manager takes it: "
            "run `shoal leave` here, then join anew"
        )

    def _stamp(self) -> tuple[int, int]:
        found = self._chain.stat()
        return found.st_mtime_ns, found.st_ino
