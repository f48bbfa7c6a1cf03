"""The host daemon on a real etcd: init, crashes at any moment, and every complaint before anything is changed."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any, TypeVar

import pytest

from tests.support.etcd import free_ports

T = TypeVar("T")
HERE = {"advertiseAddr": "127.0.0.1"}
TOKEN = f"SWMTKN-1-{'0' * 50}-{'0' * 25}"


class Engine(BaseHTTPRequestHandler):
    """As much of a Docker engine as the host daemon asks for: a ping."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"OK")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("engine") / "docker.sock"
    with ThreadingUnixStreamServer(str(path), Engine) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"unix://{path}"
        server.shutdown()


class HostProcess:
    """A host daemon with folders and ports of its own; it dies with the test."""

    def __init__(self, folder: Path, docker: str) -> None:
        self.state, self.run, self.docker = folder / "state", folder / "run", docker
        self.ports = free_ports(3)
        self.said = folder / "said"
        self._daemon: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        return [
            sys.executable, "-m", "shoal.host", "--state-dir", str(self.state), "--run-dir", str(self.run),
            "--docker", self.docker, "--name", "alpha",
            "--etcd-port", str(self.ports[0]), "--etcd-peer-port", str(self.ports[1]),
            "--api-port", str(self.ports[2]),
        ]  # fmt: skip

    def start(self, **environment: str) -> None:
        with self.said.open("ab") as said:
            self._daemon = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self.command()],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, env={**os.environ, **environment},
            )  # fmt: skip
        eventually(lambda: self.ask("GET", "/status")[0] == 200, self.said)

    def kill(self) -> None:
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait()

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGTERM)
        return self._daemon.wait(timeout=60)

    def close(self) -> None:
        if self._daemon is not None and self._daemon.poll() is None:
            self.kill()

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """One request to host.sock; (0, {}) if nobody answers."""
        connection = http.client.HTTPConnection("localhost", timeout=90)
        connection.sock = socket.socket(socket.AF_UNIX)
        with closing(connection):
            try:
                connection.sock.connect(str(self.run / "host.sock"))
            except OSError:
                return 0, {}
            connection.request(method, path, body=json.dumps(body) if body is not None else None)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def init(self) -> dict[str, Any]:
        status, found = self.ask("POST", "/init", HERE)
        assert status == 200, found
        return found

    def process(self, name: str) -> dict[str, Any]:
        report = self.ask("GET", "/status")[1]
        return next((process for process in report.get("processes", ()) if process["name"] == name), {})

    def etcdctl(self, *arguments: str) -> str:
        pki = self.state / "pki" / "etcd"
        found = subprocess.run(
            ["etcdctl", "--endpoints", f"https://127.0.0.1:{self.ports[0]}", "--cacert", f"{pki}/ca.crt",
             "--cert", f"{pki}/client.crt", "--key", f"{pki}/client.key", *arguments],
            env={**os.environ, "ETCDCTL_API": "3"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
        return found.stdout

    def files(self) -> set[str]:
        return {str(path.relative_to(self.state)) for path in self.state.rglob("*")} - {"host.lock"}


@pytest.fixture
def host(tmp_path: Path, engine: str) -> Iterator[HostProcess]:
    found = HostProcess(tmp_path, engine)
    yield found
    found.close()


def test_init_makes_a_cluster_that_survives_the_daemons_orderly_end(host: HostProcess) -> None:
    host.start()
    identity = host.init()

    assert host.stop() == 0
    host.start()

    eventually(lambda: host.process("etcd").get("healthy"), host.said)
    assert host.ask("GET", "/status")[1]["identity"] == identity
    assert f"/shoal/nodes/{identity['node']}" in host.etcdctl("get", "--prefix", "/shoal/", "--keys-only")


def test_a_killed_daemon_takes_its_processes_along_and_the_next_one_finds_no_locked_data(host: HostProcess) -> None:
    host.start()
    host.init()
    etcd = host.process("etcd")["pid"]

    host.kill()

    eventually(lambda: not is_alive(etcd), host.said)
    host.start()
    eventually(lambda: host.process("etcd").get("healthy"), host.said)
    assert host.process("etcd")["restarts"] == 0


def test_a_killed_etcd_comes_back_with_its_data(host: HostProcess) -> None:
    host.start()
    host.init()
    before = host.etcdctl("get", "--prefix", "/shoal/networks/")
    pid = host.process("etcd")["pid"]

    os.kill(pid, signal.SIGKILL)

    eventually(lambda: host.process("etcd").get("healthy") and host.process("etcd")["pid"] != pid, host.said)
    assert (host.process("etcd")["restarts"], host.process("etcd")["lastEnd"]) == (1, "signal 9")
    assert host.etcdctl("get", "--prefix", "/shoal/networks/") == before


def test_a_process_that_was_stopped_by_hand_stays_so_until_it_is_started(host: HostProcess) -> None:
    host.start()
    host.init()

    assert host.ask("POST", "/processes/etcd/stop")[0] == 200
    assert (host.process("etcd")["state"], host.process("etcd")["pid"]) == ("stopped", 0)

    host.ask("POST", "/processes/etcd/start")
    eventually(lambda: host.process("etcd").get("healthy"), host.said)
    status, refused = host.ask("POST", "/processes/etcdd/stop")
    assert (status, "no process 'etcdd'; it runs: etcd, apiserver" in refused["message"]) == (404, True)


@pytest.mark.parametrize("after", ["host.json", "pki/etcd/server.crt", "etcd/member"])
def test_init_goes_on_after_a_crash_in_the_middle(host: HostProcess, after: str) -> None:
    """Kill the daemon as soon as a file of init's is there; then its next start, or the next init, completes it."""
    host.start()
    asking = threading.Thread(target=_try_init, args=(host,))
    asking.start()
    eventually((host.state / after).exists, host.said)
    host.kill()
    asking.join()

    host.start()
    if host.ask("GET", "/status")[1]["identity"] is None:
        host.init()

    eventually(lambda: json.loads((host.state / "host.json").read_text())["phase"] == "member", host.said, within=30)
    keys = host.etcdctl("get", "--prefix", "/shoal/", "--keys-only").split()
    assert [key for key in keys if key.startswith(("/shoal/cluster", "/shoal/claims/vni"))] == [
        "/shoal/claims/vni/4096",
        "/shoal/cluster",
    ]
    assert len([key for key in keys if key.startswith("/shoal/nodes/")]) == 1


def test_a_leave_that_was_interrupted_is_finished_by_the_next_daemon(host: HostProcess) -> None:
    host.start()
    host.init()
    host.kill()
    path = host.state / "host.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "phase": "leaving"}))

    host.start()

    eventually(lambda: host.ask("GET", "/status")[1]["identity"] is None, host.said, within=60)
    assert {name for name in host.files() if not name.startswith("logs")} == set()
    host.init()


def test_the_last_manager_leaves_by_force_only(host: HostProcess) -> None:
    host.start()
    assert host.ask("POST", "/leave", {})[0] == 404
    host.init()
    status, refused = host.ask("POST", "/leave", {"force": False})
    assert (status, "this host is the last manager" in refused["message"]) == (403, True)
    assert host.process("etcd")["state"] == "ready"


@pytest.mark.parametrize(
    ("wanted", "status", "said"),
    [
        pytest.param({"token": "hello", "remote": "10.0.0.1"}, 422, "this is no join token", id="no token"),
        pytest.param({"token": TOKEN, "remote": "x:y"}, 422, "expected a manager's HOST:PORT", id="no address"),
        pytest.param({"token": TOKEN, "remote": "127.0.0.1:1"}, 503, "no manager answers at", id="nobody there"),
        pytest.param({"token": TOKEN}, 422, "missing required field `remote`", id="half a request"),
    ],
)
def test_a_join_that_cannot_be_leaves_the_host_as_it_was(
    host: HostProcess, wanted: dict[str, str], status: int, said: str
) -> None:
    host.start()
    before = host.files()
    answer, refused = host.ask("POST", "/join", wanted)
    assert (answer, said in refused["message"]) == (status, True), refused
    assert host.files() == before


def test_a_second_init_is_refused(host: HostProcess) -> None:
    host.start()
    host.init()
    status, refused = host.ask("POST", "/init", HERE)
    assert status == 409
    assert "this host is already a manager of cluster" in refused["message"]


def test_a_port_in_use_is_told_and_leaves_the_host_as_it_was(host: HostProcess) -> None:
    host.start()
    before = host.files()
    with socket.create_server(("127.0.0.1", host.ports[0])):
        status, refused = host.ask("POST", "/init", HERE)
    assert status == 500
    assert f"port {host.ports[0]}, which etcd needs, is in use" in refused["message"]
    assert "--etcd-port" in refused["message"]
    with socket.create_server(("127.0.0.1", host.ports[2])):
        status, refused = host.ask("POST", "/init", HERE)
    assert status == 500
    assert f"port {host.ports[2]}, which the API server needs, is in use" in refused["message"]
    assert "--api-port" in refused["message"]
    assert host.files() == before
    host.init()


def test_an_earlier_clusters_data_is_not_touched(host: HostProcess) -> None:
    host.start()
    (host.state / "etcd").mkdir()
    status, refused = host.ask("POST", "/init", HERE)
    assert (status, "holds an earlier cluster: move it away" in refused["message"]) == (409, True)


def test_a_missing_etcd_is_told_with_its_package(host: HostProcess, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for program in ("setpriv", "sh", "ip", "nft"):
        (tmp_path / "bin" / program).symlink_to(_which(program))
    host.start(PATH=str(tmp_path / "bin"))
    before = host.files()

    status, refused = host.ask("POST", "/init", HERE)

    assert status == 500
    assert "etcd not found: install with `apt-get install etcd-server`" in refused["message"]
    assert host.files() == before


def test_a_missing_engine_is_told_with_what_to_do(tmp_path: Path) -> None:
    host = HostProcess(tmp_path, f"unix://{tmp_path}/none.sock")
    host.start()
    try:
        status, refused = host.ask("POST", "/init", HERE)
        assert status == 500
        assert "none.sock does not answer (No such file or directory): " in refused["message"]
        assert "start it" in refused["message"] or "install it" in refused["message"]
        assert host.ask("GET", "/status")[1]["problems"] == [refused["message"]]
    finally:
        host.close()


def test_a_second_daemon_on_the_same_state_directory_is_refused(host: HostProcess) -> None:
    host.start()
    second = subprocess.run(host.command(), capture_output=True, text=True, check=False, timeout=30)
    assert second.returncode == 1
    assert "another host daemon (process " in second.stderr
    assert "Traceback" not in second.stderr
    assert host.ask("GET", "/status")[0] == 200


@pytest.mark.parametrize(
    ("name", "content", "code", "said"),
    [
        pytest.param("host.json", "{", 1, "host.json is damaged", id="a damaged identity"),
        pytest.param(
            "host.json",
            json.dumps({"phase": "member", "node": "n", "name": "a", "role": "manager", "cluster": "c",
                        "incarnation": "i", "advertiseAddr": "127.0.0.1", "etcdPorts": {"client": 1, "peer": 2}}),
            2, "--etcd-port: this host's etcd was set up with port 1", id="another port than recorded",
        ),
    ],
)  # fmt: skip
def test_a_state_directory_that_does_not_fit(host: HostProcess, name: str, content: str, code: int, said: str) -> None:
    host.state.mkdir()
    (host.state / name).write_text(content)
    ended = subprocess.run(host.command(), capture_output=True, text=True, check=False, timeout=30)
    assert (ended.returncode, said in ended.stderr, "Traceback" in ended.stderr) == (code, True, False), ended.stderr


def test_up_status_and_down_from_the_command_line(host: HostProcess) -> None:
    with closing_daemon(host):
        up = shoal("up", *host.command()[3:])
        assert (up.returncode, "belongs to no swarm yet: `shoal init`" in up.stdout) == (0, True), up.stderr
        again = shoal("up", "--run-dir", str(host.run))
        assert again.returncode == 0

        status = shoal("status", "--run-dir", str(host.run))
        assert (status.returncode, "Host alpha belongs to no swarm" in status.stdout) == (0, True)

        down = shoal("down", "--run-dir", str(host.run))
        assert (down.returncode, down.stdout) == (0, "Shoal is stopped; containers go on.\n")
    for command, code, said in (
        ("down", 0, "Shoal is not running."),
        ("status", 1, "Shoal is not running on this host"),
        ("init", 1, "start it with `shoal up`"),
    ):
        ended = shoal(command, "--run-dir", str(host.run))
        assert (ended.returncode, said in ended.stdout + ended.stderr) == (code, True)


def shoal(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shoal.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)


@contextmanager
def closing_daemon(host: HostProcess) -> Iterator[None]:
    """End a daemon that the command line put into the background, whatever the test found."""
    try:
        yield
    finally:
        pid = host.ask("GET", "/status")[1].get("pid", 0)
        if pid:
            os.kill(pid, signal.SIGKILL)


def eventually(probe: Callable[[], T], said: Path, within: float = 20.0) -> T:
    deadline = time.monotonic() + within
    while not (found := probe()):
        assert time.monotonic() < deadline, f"not within {within} s; last: {found!r}\n{said.read_text()}"
        time.sleep(0.01)
    return found


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _try_init(host: HostProcess) -> None:
    try:
        host.ask("POST", "/init", HERE)
    except (OSError, http.client.HTTPException):
        return


def _which(program: str) -> str:
    found = subprocess.run(["sh", "-c", f"command -v {program}"], capture_output=True, text=True, check=True)
    return found.stdout.strip()
