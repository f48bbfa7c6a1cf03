"""What a hollow node has in place of Docker and the kernel: containers that only pretend, and no network."""

from __future__ import annotations

from nodeagent.assignments import Assignments
from nodeagent.engine.fake import FakeEngine
from nodeagent.ports import ContainerNetwork
from shoal.api.objects import NodeDescription, Plugin, Task
from shoal.api.units import Bytes, Cpus

CPUS = Cpus(64_000_000_000)
MEMORY = Bytes(256 << 30)


class HollowEngine(FakeEngine):
    """Has every image, and remembers no call."""

    def __init__(self, hostname: str) -> None:
        super().__init__(
            description=NodeDescription(
                hostname=hostname,
                os="linux",
                architecture="x86_64",
                cpus=CPUS,
                memory=MEMORY,
                engine_version="hollow",
                plugins=(Plugin("Network", "bridge"), Plugin("Network", "overlay")),
            )
        )

    async def pull(self, image: str, auth: str = "") -> None:
        self.images.add(image)

    def _enter(self, call: str, what: str = "") -> None:
        return


class HollowNetwork:
    """A NetworkPort that wires nothing."""

    async def prepare(self, task: Task) -> ContainerNetwork:
        return ContainerNetwork()

    async def complete(self, task: Task, pid: int) -> None:
        pass

    def distrust(self) -> None:
        pass

    async def program(self, assignments: Assignments) -> None:
        return

    async def cleanup(self) -> None:
        return
