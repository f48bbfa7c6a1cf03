"""Options and fixtures of all tests."""

from __future__ import annotations

import random

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run long sweeps in full instead of a sample")
    parser.addoption("--seed", type=int, default=None, help="seed of everything random; printed at the start")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.seed is None:
        config.option.seed = random.SystemRandom().randrange(1 << 32)


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
