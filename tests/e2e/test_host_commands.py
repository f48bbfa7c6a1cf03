"""`shoal up|init|status|down` on a real host, and what they say to mistakes."""

from __future__ import annotations

import sys

from tests.support.lab import Host, eventually
from tests.support.onlookers import Bystander, settled


def test_a_second_init_is_refused(rough_host: Host) -> None:
    said = rough_host.shoal("init")
    assert said.code == 1
    assert "already a manager of cluster" in said.err


def test_a_second_daemon_is_refused_and_the_first_goes_on(rough_host: Host, bystander: Bystander) -> None:
    pid = rough_host.pid("host")
    said = rough_host.shoal("host")
    assert said.code == 1
    assert f"another host daemon (process {pid})" in said.err
    assert rough_host.pid("host") == pid
    bystander.assert_untouched()


def test_down_leaves_containers_running_and_their_ports_answering(rough_host: Host, bystander: Bystander) -> None:
    rough_host.shoal("down").ok()
    said = rough_host.shoal("status")
    assert said.code == 1
    assert "Shoal is not running on this host" in said.err
    before = bystander.port.answers()
    eventually(lambda: bystander.port.answers() > before + 5)

    rough_host.shoal("up").ok()

    eventually(lambda: settled(rough_host), within=60)
    bystander.assert_untouched()


def test_a_stopped_process_stays_stopped_until_it_is_started(rough_host: Host) -> None:
    rough_host.shoal("down rollout").ok()
    line = next(line for line in rough_host.shoal("status").ok().out.splitlines() if line.startswith("rollout"))
    assert line.split()[1] == "stopped"
    rough_host.shoal("up rollout").ok()
    assert rough_host.pid("rollout")


def test_an_absent_engine_is_told_with_what_to_do(fresh_host: Host) -> None:
    fresh_host.stop_engine()
    up = fresh_host.shoal("up")
    assert up.code == 1
    assert "the Docker engine at unix:///var/run/docker.sock does not answer" in up.err
    assert "start it" in up.err


def test_an_absent_etcd_is_told_with_its_package(fresh_host: Host) -> None:
    said = fresh_host.run("env", "PATH=/nowhere", sys.executable, "-m", "shoal.cli.main", "up")
    assert said.code == 1
    assert "etcd and nft not found: install with `apt-get install etcd-server nftables`" in said.err


def test_a_port_in_use_is_told_and_init_works_once_it_is_free(fresh_host: Host) -> None:
    fresh_host.shoal("up").ok()
    listener = "import socket; s = socket.create_server(('127.0.0.1', 2379)); open('/run/listens', 'w'); s.accept()"
    process = fresh_host.start(sys.executable, "-c", listener)
    try:
        eventually(lambda: fresh_host.run("ls", "/run/listens").code == 0)
        said = fresh_host.shoal("init")
        assert said.code == 1
        assert "port 2379, which etcd needs, is in use" in said.err
    finally:
        fresh_host.run("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/2379")
        process.communicate(timeout=10)
    fresh_host.shoal("init").ok()


def test_a_state_directory_that_cannot_be_written_is_told(rough_host: Host) -> None:
    said = rough_host.shoal("up --state-dir /proc/shoal --run-dir /run/other")
    assert said.code == 1
    assert "the state directory /proc/shoal is not writable" in said.err
