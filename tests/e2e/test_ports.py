"""Published ports on one host: who answers, whom they see, and whose port it is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import pytest

from tests.support.lab import FABRIC_ADDRESS, Host, Lab, eventually
from tests.support.user import (
    GENEROUS_S,
    SLEEP,
    answers,
    apply,
    get,
    hostnames,
    keys,
    revisions,
    running,
    says,
    service,
    shell,
    start,
    tasks,
)

MIRROR = """
mkdir -p /tmp/www/cgi-bin
printf '#!/bin/sh\\necho; echo "$REMOTE_ADDR"\\n' >/tmp/www/cgi-bin/me
chmod +x /tmp/www/cgi-bin/me
exec httpd -f -p 80 -h /tmp/www
"""
"""A web server that tells each client its address at /cgi-bin/me."""

ECHO = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("", 53))
    while True:
        question, client = server.recvfrom(100)
        server.sendto(client[0].encode(), client)
"""
"""Tell each UDP client its address."""

ASK = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.settimeout(3)
    client.sendto(b"question\\n", (sys.argv[1], int(sys.argv[2])))
    print(client.recv(100).decode())
"""
"""Ask a UDP port, and print the answer."""

STREAM = """
import sys, time, urllib.request
told, lost, end = 0, [], time.monotonic() + float(sys.argv[2])
print("begun", flush=True)
while time.monotonic() < end:
    try:
        told += len(urllib.request.urlopen(sys.argv[1], timeout=5).read()) > 0
    except OSError as error:
        lost.append(f"{time.time():.3f} {error!r}")
    time.sleep(0.01)
print(told, lost)
"""
"""Ask a URL one time after the other for some seconds; print how many answers came, and what went wrong when."""


@pytest.fixture
def host(steady_host: Host) -> Host:
    return steady_host


def test_a_port_answers_on_every_address_and_containers_see_the_true_client(host: Host, lab: Lab) -> None:
    start(host, service("mirror", replicas=2, ports=["8121:80"], **shell(MIRROR)))
    running(host, "mirror", 2)

    answers(host, "http://127.0.0.1:8121/cgi-bin/me")
    assert _seen(host.curl("http://127.0.0.1:8121/cgi-bin/me")) in _own_addresses(host)
    assert _seen(host.curl(f"http://{host.address}:8121/cgi-bin/me")) in _own_addresses(host)
    from_outside = lab.in_fabric("curl", "-sSf", "-m", "5", f"http://{host.address}:8121/cgi-bin/me")
    assert _seen(from_outside.stdout) == FABRIC_ADDRESS


def _seen(answer: str) -> str:
    return answer.strip().removeprefix("[::ffff:").removesuffix("]")


def _own_addresses(host: Host) -> list[str]:
    shown = host.run("ip", "-o", "-4", "address").ok().out.splitlines()
    return [line.split()[3].partition("/")[0] for line in shown]


def test_requests_from_outside_are_balanced_over_all_tasks(host: Host, lab: Lab) -> None:
    start(host, service("balanced", replicas=3, ports=["8122:80"]))
    ids = running(host, "balanced", 3)
    url = f"http://{host.address}:8122/"
    eventually(lambda: len(hostnames(host, url)) == 3, within=GENEROUS_S)
    said = [lab.in_fabric("curl", "-sSf", "-m", "5", url).stdout for _ in range(15)]
    assert {one[:12] for one in ids} == {line.split()[2].rstrip(",") for line in said}


def test_udp_and_several_ports_of_one_service_answer(host: Host, lab: Lab) -> None:
    ports = ["8123:80", "8124:80", "8123:53/udp", {"published": 8125, "target": 53, "protocol": "udp", "mode": "host"}]
    script = f"httpd -p 80 -h /etc; exec chroot /host {sys.executable} -c '{ECHO}'"
    start(host, service("many", ports=ports, mounts=["/:/host:ro"], **shell(script)))
    running(host, "many", 1)

    for port in (8123, 8124):
        assert "nobody" in answers(host, f"http://127.0.0.1:{port}/passwd")
    for port in (8123, 8125):
        eventually(partial(_asked, host, port), within=GENEROUS_S)

    outside = lab.in_fabric(sys.executable, "-c", ASK, host.address, "8123")
    assert outside.stdout.strip() == FABRIC_ADDRESS
    says(host, "service/many", "8123->80/tcp", "8123->53/udp", "8125->53/udp (host)")


def _asked(host: Host, port: int) -> bool:
    """Does a UDP port answer?"""
    return host.run(sys.executable, "-c", ASK, "127.0.0.1", str(port)).ok().out.strip() in _own_addresses(host)


def test_a_port_left_open_is_chosen_shown_and_kept(host: Host) -> None:
    start(host, service("chosen", ports=[80]))
    running(host, "chosen", 1)
    port = _published(host, "chosen")
    assert 30000 <= port <= 32767
    assert "version 1" in answers(host, f"http://127.0.0.1:{port}/")
    assert f"{port}->80/tcp" in host.shoal("get service chosen").ok().out

    start(host, service("other", ports=[80], **SLEEP))
    apply(host, service("chosen", ports=[80], image="shoal/hello:2")).ok()

    assert _published(host, "chosen") == port
    assert "version 2" in answers(host, f"http://127.0.0.1:{port}/")
    assert eventually(lambda: _published(host, "other"), within=30) != port


def _published(host: Host, name: str) -> int:
    ports = get(host, f"services/{name}")["status"].get("endpoint", {}).get("ports", [])
    return int(ports[0]["published"]) if ports else 0


def test_a_taken_port_is_refused_in_the_call_and_free_after_deletion(host: Host) -> None:
    start(host, service("first", ports=["8126:80"], **SLEEP))
    running(host, "first", 1)
    uid = get(host, "services/first")["metadata"]["uid"]
    before = keys(host)

    refused = apply(host, service("second", ports=["8126:80"], **SLEEP))

    assert refused.code == 2
    sentence = f"port '8126' is already in use by service 'first' ({uid}) as an ingress port"
    assert f"Service second: spec.ports[0].published: {sentence}" in refused.err
    assert refused.err.startswith("shoal: standard input:")
    assert keys(host) == before
    assert apply(host, service("second", ports=[{"published": 8126, "target": 80, "mode": "host"}])).code == 2
    assert apply(host, service("second", ports=["8126:80/udp"], **SLEEP), "-d").code == 0

    host.shoal("delete service first second").ok()
    start(host, service("third", ports=["8126:80"]))
    answers(host, "http://127.0.0.1:8126/")


def test_two_services_on_one_host_mode_port_take_turns(host: Host) -> None:
    ports = [{"published": 8127, "target": 80, "mode": "host"}]
    start(host, service("early", ports=ports))
    running(host, "early", 1)
    (task,) = tasks(host, "early", "running")
    assert [(p["published"], p["target"]) for p in task["status"]["ports"]] == [(8127, 80)]
    start(host, service("late", ports=ports))
    says(host, "service/late", "no suitable node (host-mode port already in use on 1 node)")

    host.shoal("delete service early").ok()

    (one,) = running(host, "late", 1)
    assert one[:12] in answers(host, "http://127.0.0.1:8127/")


def test_a_host_mode_port_left_open_is_the_engine_s_choice(host: Host) -> None:
    start(host, service("free", ports=[{"target": 80, "mode": "host"}]))
    running(host, "free", 1)
    (task,) = tasks(host, "free", "running")
    (port,) = task["status"]["ports"]
    assert "hello from" in answers(host, f"http://127.0.0.1:{port['published']}/")


def test_a_port_bound_to_one_address_of_the_host_answers_there_alone(host: Host) -> None:
    at = host.address
    start(
        host,
        service("bound", ports=[f"{at}:8131:80", {"published": 8132, "target": 80, "mode": "host", "address": at}]),
    )
    for port in (8131, 8132):
        assert "hello from" in answers(host, f"http://{at}:{port}/")
        assert host.run("curl", "-sS", "-m", "3", f"http://127.0.0.1:{port}/").code == 7  # connection refused


def test_a_port_can_be_changed_and_a_service_unpublished(host: Host) -> None:
    start(host, service("mobile", ports=["8128:80"]))
    answers(host, "http://127.0.0.1:8128/")
    apply(host, service("mobile", ports=["8129:80"])).ok()
    answers(host, "http://127.0.0.1:8129/")
    assert host.run("curl", "-sS", "-m", "3", "http://127.0.0.1:8128/").code == 7  # connection refused
    apply(host, service("mobile")).ok()
    assert host.run("curl", "-sS", "-m", "3", "http://127.0.0.1:8129/").code == 7
    assert not [key for key in revisions(host) if key.startswith("/shoal/claims/port/")]


@pytest.fixture
def stream(host: Host) -> Iterator[list[subprocess.Popen[str]]]:
    """Clients; those that still ask when the test is over are ended."""
    clients: list[subprocess.Popen[str]] = []
    yield clients
    for client in clients:
        client.kill()
        client.communicate()


def test_scaling_and_a_start_first_update_lose_no_request(host: Host, stream: list[subprocess.Popen[str]]) -> None:
    spec = {
        "ports": ["8130:80"],
        "update": {"order": "start-first"},
        "healthcheck": {"test": "wget -q -O /dev/null http://127.0.0.1/", "interval": "500ms", "timeout": "5s"},
    }
    start(host, service("seamless", replicas=3, **spec))
    running(host, "seamless", 3)
    answers(host, "http://127.0.0.1:8130/")
    client = host.start(sys.executable, "-c", STREAM, "http://127.0.0.1:8130/", "12")
    stream.append(client)
    assert client.stdout is not None
    assert client.stdout.readline() == "begun\n"

    host.shoal("scale seamless=1 -d").ok()
    running(host, "seamless", 1)
    start(host, service("seamless", replicas=2, **spec | {"image": "shoal/hello:2"}))
    eventually(lambda: "version 2" in host.curl("http://127.0.0.1:8130/"), within=GENEROUS_S)
    running(host, "seamless", 2)

    told, _, lost = client.communicate(timeout=60)[0].partition(" ")
    assert lost.strip() == "[]"
    assert int(told) > 0
