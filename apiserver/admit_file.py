"""Admission of secrets and configs. Pure, but for the fresh nonces of what is sealed.

Their data never changes: a service is given another one instead. While a Reference names one, it cannot be deleted.
"""

from __future__ import annotations

import base64

from apiserver.admission import Admission, View, identity_faults, refuse, replaced, updated
from apiserver.vault import SEALED
from shoal.api import keys
from shoal.api import objects as o
from shoal.api.errors import Fault
from shoal.api.meta import Meta
from shoal.api.validation import MAX_CONFIG_BYTES, MAX_SECRET_BYTES
from shoal.machinery.controller import Create, Remove
from shoal.machinery.store import NoneUnder

File = o.Secret | o.Config


def admit_file(old: File | None, new: File, view: View, uid: str) -> Admission:
    """Create one with its data; of an existing one, change labels only. Data that is not given again stays."""
    if old is None:
        return _created(new, view, uid)
    faults = identity_faults(old, new)
    if not _is_same(old, new, view):
        faults.append(Fault("spec", "only updates to Labels are allowed"))
    return refuse(new, *faults) if faults else replaced(old, updated(old, labels=new.metadata.labels))


def admit_file_delete(old: File, view: View, forced: bool) -> Admission:
    """Refuse while services use it, and name them."""
    users = sorted({ref.metadata.owner.name for ref in view.references_to(old.metadata.uid) if ref.metadata.owner})
    if users:
        word = "service" if len(users) == 1 else "services"
        kind, name = old.KIND.lower(), old.metadata.name
        return refuse(old, Fault("", f"{kind} '{name}' is in use by the following {word}: {', '.join(users)}"))
    return Admission(old, (Remove(old),), (NoneUnder(keys.references_to(old.KIND, old.metadata.uid)),))


def _created(new: File, view: View, uid: str) -> Admission:
    kind = new.KIND.lower()
    if not new.spec.data:
        limit = MAX_SECRET_BYTES if isinstance(new, o.Secret) else MAX_CONFIG_BYTES
        message = f"{kind} data must be larger than 0 and less than {limit} bytes"
        return refuse(new, Fault("spec.data", message))
    meta = Meta(name=new.metadata.name, uid=uid, labels=new.metadata.labels)
    obj = view.vault.sealed(type(new)(metadata=meta, spec=new.spec))
    return Admission(obj, (Create(obj),))


def _is_same(old: File, new: File, view: View) -> bool:
    if not new.spec.data:
        return new.spec.templating in ("", old.spec.templating)
    known = view.vault.opened(old) if isinstance(old, SEALED) else old
    assert isinstance(known, (o.Secret, o.Config))
    same_data = base64.b64decode(known.spec.data) == base64.b64decode(new.spec.data)
    return same_data and new.spec.templating == old.spec.templating
