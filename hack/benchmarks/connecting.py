"""TCP connections and nothing else, from and to any network namespace: `serve` and `connect`. Standard library only.

    serve PORT                    accepts and closes, and says how many came once its standard input ends
    connect N ROUNDS HOST:PORT…   N connections to each in turn, and so in each round; one line of JSON

The client is one thread with one connection at a time. All hosts share one kernel here, which does most of a packet's
way within the client's own call, so this is what a connection costs. It ends each with a reset, which leaves no
connection waiting and no port used up.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import time
from dataclasses import asdict, dataclass

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER on, for no time."""


@dataclass(frozen=True)
class Round:
    """What one round of connections to one address took."""

    median_us: float
    worst_us: float
    """The slowest of a hundred."""
    per_s: float


def serve(port: int) -> None:
    listener = socket.create_server(("", port), backlog=4096)
    came = 0

    def accept() -> None:
        nonlocal came
        while True:
            connection, _ = listener.accept()
            came += 1
            connection.close()

    threading.Thread(target=accept, daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()
    print(came, flush=True)


def connect(count: int, rounds: int, addresses: list[tuple[str, int]]) -> dict[str, list[Round]]:
    """Return the rounds to each address, in their order; the first fifty connections to each count for nothing."""
    for address in addresses:
        _connect(50, address)
    found: dict[str, list[Round]] = {f"{host}:{port}": [] for host, port in addresses}
    for at in range(rounds):
        for host, port in addresses if at % 2 == 0 else reversed(addresses):
            found[f"{host}:{port}"].append(_connect(count, (host, port)))
    return found


def _connect(count: int, address: tuple[str, int]) -> Round:
    took: list[int] = []
    begun = time.perf_counter()
    for _ in range(count):
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        client.settimeout(None)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        before = time.perf_counter_ns()
        client.connect(address)
        took.append(time.perf_counter_ns() - before)
        client.close()
    per_s = count / (time.perf_counter() - begun)
    took.sort()
    return Round(took[count // 2] / 1000, took[count * 99 // 100] / 1000, per_s)


def main(arguments: list[str]) -> int:
    match arguments:
        case ["serve", port]:
            serve(int(port))
        case ["connect", count, rounds, *addresses]:
            pairs = [(host, int(port)) for host, _, port in (one.partition(":") for one in addresses)]
            found = connect(int(count), int(rounds), pairs)
            print(json.dumps({address: [asdict(one) for one in all_] for address, all_ in found.items()}))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
