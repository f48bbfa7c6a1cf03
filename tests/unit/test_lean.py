"""What long-lived processes import: every library that creeps back costs each of them megabytes for ever."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from shoal.machinery.lean import in_parts, left_out

NOBODY = {"rich", "pygments", "better_exceptions", "etcd3.client", "yaml", "hypothesis", "pytest", "shoal.cli"}
NO_HTTP = {"aiohttp", "http.server", "http.client", "urllib.request", "email", "prometheus_client.exposition"}
NO_ETCD = {"grpc", "google.protobuf", "etcd3.etcdrpc"}
NO_ENGINE = {"docker", "requests", "urllib3", "pyroute2.netlink", "dnslib"}
NO_KEYS = {"cryptography"}
NO_DATABASE = {"pyroute2.ndb", "pyroute2.ipdb", "sqlite3"}

CONTROLLERS = ("replication", "rollout", "placement", "endpoint", "nodes")


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        pytest.param(
            ("nodeagent.__main__",), NOBODY | NO_ETCD | NO_KEYS | NO_DATABASE | {"aiohttp.web", "wsgiref"}, id="agent"
        ),
        pytest.param(
            ("nodeagent.dns.__main__",),
            NOBODY | NO_ETCD | NO_KEYS | NO_HTTP | (NO_ENGINE - {"dnslib"}) | {"shoal.api.validation"},
            id="name service",
        ),
        pytest.param(
            ("controllers.__main__", "shoal.machinery.etcd", *(f"controllers.{name}" for name in CONTROLLERS)),
            NOBODY | NO_KEYS | NO_HTTP | NO_ENGINE,
            id="controllers",
        ),
        pytest.param(("apiserver.__main__", "shoal.machinery.etcd"), NOBODY | NO_ENGINE, id="API server"),
        pytest.param(("shoal.host.__main__",), (NOBODY - {"shoal.cli"}) | NO_ETCD | NO_ENGINE, id="host daemon"),
    ],
)
def test_a_process_imports_nothing_it_does_not_use(modules: tuple[str, ...], unwanted: set[str]) -> None:
    found = imported_by(*modules)
    assert {name for name in unwanted if name in found} == set()


def imported_by(*modules: str) -> set[str]:
    """Import modules in a process of their own, in order; return the names of all modules it then has."""
    program = f"import sys\nfor name in {modules!r}: __import__(name)\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return set(run.stdout.split())


@pytest.fixture
def package(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package whose own `__init__` imports the heavy one of its two modules."""
    folder = tmp_path_factory.mktemp("lean")
    (folder / "parcel").mkdir()
    (folder / "parcel" / "__init__.py").write_text("from parcel.heavy import WEIGHT\nfrom parcel import light\n")
    (folder / "parcel" / "heavy.py").write_text("WEIGHT = 7\n")
    (folder / "parcel" / "light.py").write_text("from . import feather\nWEIGHT = feather.WEIGHT\n")
    (folder / "parcel" / "feather.py").write_text("WEIGHT = 1\n")
    monkeypatch.syspath_prepend(str(folder))
    for name in ("parcel", "parcel.heavy", "parcel.light", "parcel.feather"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "parcel"


def test_a_package_in_parts_gives_a_module_without_the_rest(package: str) -> None:
    in_parts(package)
    assert module(f"{package}.light").WEIGHT == 1
    assert f"{package}.heavy" not in sys.modules


def test_a_package_in_parts_still_has_every_name(package: str) -> None:
    in_parts(package)
    assert module(package).WEIGHT == 7
    assert module(package).light.WEIGHT == 1


def test_a_name_that_a_package_in_parts_does_not_have_is_an_attribute_error(package: str) -> None:
    in_parts(package)
    with pytest.raises(AttributeError, match="parcel"):
        _ = module(package).nothing


def test_what_is_left_out_can_be_imported_afterwards(package: str) -> None:
    with left_out(package), pytest.raises(ModuleNotFoundError):
        module(package)
    assert module(package).WEIGHT == 7


def module(name: str) -> ModuleType:
    __import__(name)
    return sys.modules[name]
