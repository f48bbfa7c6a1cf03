"""What a claim looks like: etcd's word that one owner has a port, an address, a number or a name. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from shoal.api import keys
from shoal.api.meta import Meta, Owner, derived_uid
from shoal.api.objects import Claim


def make_claim(key: str, owner: Owner, labels: Mapping[str, str] | None = None) -> Claim:
    """Return the claim that lies at a whole key."""
    short = key.removeprefix(keys.ROOT)
    meta = Meta(name=short, uid=derived_uid("claim", short, owner.uid), labels=dict(labels or {}), owner=owner)
    return Claim(metadata=meta, key=short)
