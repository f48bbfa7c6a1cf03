"""Options and fixtures of all tests."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.etcd import EtcdProcess, running_etcd


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run long sweeps in full instead of a sample")
    parser.addoption("--seed", type=int, default=None, help="seed of everything random; printed at the start")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.seed is None:
        told: dict[str, int] = getattr(config, "workerinput", {})
        config.option.seed = told.get("seed", random.SystemRandom().randrange(1 << 32))
    load_hypothesis_profile(full=config.option.full)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Every process that takes part in the run has its seed: they must choose alike, and it is the one printed."""
    node.workerinput["seed"] = node.config.option.seed


def load_hypothesis_profile(full: bool) -> None:
    """Judge by results, never by time: on a shared machine any example may be slow."""
    examples = settings.default.max_examples * (15 if full else 1)
    settings.register_profile(
        "shoal", max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("shoal")


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.option.seed} (repeat with --seed {config.option.seed})"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The run's seed: `random.Random(seed)`."""
    found: int = request.config.option.seed
    return found


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Run long sweeps in full?"""
    found: bool = request.config.option.full
    return found


@pytest.fixture(scope="session")
async def one_loop() -> AsyncIterator[None]:
    """Run this test and all later ones in one event loop.

    grpc.aio has one poller per process; it delivers what a finished test had cancelled, also to loops closed by then.
    """
    yield  # noqa: PT022 - anyio keeps the loop for as long as an async generator's fixture is in use


@pytest.fixture(scope="session")
def etcd(one_loop: None) -> Iterator[EtcdProcess]:
    """The run's shared etcd. A test keeps to keys of its own and leaves it running."""
    with running_etcd() as process:
        yield process


@pytest.fixture
def own_etcd(one_loop: None) -> Iterator[EtcdProcess]:
    """An etcd of the test's own, to be killed, frozen and wiped."""
    with running_etcd() as process:
        yield process
