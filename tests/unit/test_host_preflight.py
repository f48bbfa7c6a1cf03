"""What can be wrong with a host, told in sentences that say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.api.errors import InvalidError, TerminalError
from shoal.host.preflight import choose_address, need_folder, need_programs, need_short_path

ONE = {"lo": ("127.0.0.1",), "eth0": ("10.99.0.1", "10.99.0.7")}
TWO = {"lo": ("127.0.0.1",), "eth0": ("10.99.0.1",), "eth1": ("10.98.0.1",), "eth2": ()}


@pytest.mark.parametrize(
    ("wanted", "interfaces", "towards", "expected"),
    [
        pytest.param("", TWO, "10.98.0.1", "10.98.0.1", id="the one on the way to a manager"),
        pytest.param("", {"lo": ("127.0.0.1",), "eth0": ("10.9.0.1",)}, "", "10.9.0.1", id="the only one"),
        pytest.param("", {"lo": ("127.0.0.1",)}, "", "127.0.0.1", id="a machine on no network"),
        pytest.param("eth1", TWO, "10.99.0.1", "10.98.0.1", id="an interface's"),
        pytest.param("eth0", ONE, "", "10.99.0.1", id="an interface's first"),
        pytest.param("203.0.113.5", TWO, "10.99.0.1", "203.0.113.5", id="one behind translation"),
    ],
)
def test_the_advertised_address(
    wanted: str, interfaces: dict[str, tuple[str, ...]], towards: str, expected: str
) -> None:
    assert choose_address(wanted, interfaces, towards) == expected


@pytest.mark.parametrize(
    ("wanted", "interfaces", "said"),
    [
        pytest.param(
            "", TWO, r"could not choose .* \(10.99.0.1 on eth0, 10.98.0.1 on eth1\): .*--advertise-addr", id="several"
        ),
        pytest.param("", ONE, r"\(10.99.0.1 on eth0, 10.99.0.7 on eth0\)", id="several of one interface"),
        pytest.param("eth7", TWO, r"an interface of this host \(eth0, eth1, eth2, lo\), found 'eth7'", id="unknown"),
        pytest.param("eth2", TWO, "eth2 has no IPv4 address", id="an interface without one"),
        pytest.param("10.0.0", TWO, "found '10.0.0'", id="half an address"),
    ],
)
def test_an_address_that_cannot_be_chosen(wanted: str, interfaces: dict[str, tuple[str, ...]], said: str) -> None:
    with pytest.raises(InvalidError, match=said):
        choose_address(wanted, interfaces, "")


@pytest.mark.parametrize(
    ("present", "said"),
    [
        pytest.param({"nft"}, "^etcd not found: install with `apt-get install etcd-server`", id="no etcd"),
        pytest.param(set(), "^etcd and nft not found: .*`apt-get install etcd-server nftables`", id="neither"),
    ],
)
def test_a_missing_program_is_named_with_its_package(present: set[str], said: str) -> None:
    with pytest.raises(TerminalError, match=said):
        need_programs(find=lambda name: name if name in present else None)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TerminalError, match=r"the state directory .*file/state is not writable .*--state-dir"):
        need_folder(tmp_path / "file" / "state", "state directory", "--state-dir")


def test_a_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    need_folder(tmp_path / "a" / "b", "state directory", "--state-dir", 0o700)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_run_directory_too_deep_for_a_socket() -> None:
    need_short_path(Path("/run/shoal/status/x.sock"))
    with pytest.raises(InvalidError, match=r"^--run-dir: .* has 125 bytes, and a socket's path at most 107"):
        need_short_path(Path("/" + "x" * 117 + "/x.sock"))
