"""When a node's certificate is renewed. Pure."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509

from shoal.machinery.pki import BACKDATED

EARLIEST, LATEST = 0.5, 0.8
"""Shares of a certificate's life between which it is renewed, at random, so that many hosts do not come at once."""

LONGEST_WAIT_S = 60.0
"""A host that slept, or whose clock was set, notices by then."""

RETRY_S = (1.0, 60.0)
"""Shortest and longest wait after a renewal that failed."""


def seconds_until_due(certificate: x509.Certificate, share: float, now: datetime) -> float:
    """Return the seconds until a share of the life is over, 0 if it is.

    With 90 days and 0.5: 45 days after it was made, which was an hour after its beginning.
    """
    made = certificate.not_valid_before_utc + BACKDATED
    due = made + (certificate.not_valid_after_utc - made) * share
    return max(0.0, (due - now).total_seconds())


def retry_after_s(certificate: x509.Certificate, now: datetime) -> float:
    """Return how long to wait after a failure: a tenth of what is left, within bounds."""
    left = (certificate.not_valid_after_utc - now).total_seconds()
    return min(max(left / 10, RETRY_S[0]), RETRY_S[1])
