"""What waits until all nodes have followed a change. Pure."""

from __future__ import annotations

from shoal.api.objects import Backend


def is_waiting(backend: Backend) -> bool:
    """Some node may not have followed the last change of `ready`, and that is waited for."""
    status = backend.status
    return (status.serving_at if status.ready else status.drained_at) is None
