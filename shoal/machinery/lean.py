"""What long-lived processes leave out when they import their libraries: an import costs memory as long as they live.

Each process's package calls `import_leanly` before anything else is imported. Nothing is lost by it but what the
process never uses; the figures are in docs/benchmarks.md, and tests/unit/test_lean.py holds what stays out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any, Final

IN_PARTS: Final = ("etcd3", "prometheus_client", "pyroute2")
"""Packages of which we use a few modules, while the package itself imports every one it has."""


def import_leanly() -> None:
    """Import what would bring too much along, without that; call it before its first import elsewhere."""
    with left_out("rich", "better_exceptions"):  # structlog would draw tracebacks with them
        import structlog  # noqa: F401
    for name in IN_PARTS:
        in_parts(name)


@contextmanager
def left_out(*names: str) -> Iterator[None]:
    """Within, importing these fails as if they were not installed; for what a library can do without."""
    missing = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(missing))  # type: ignore[arg-type]  # None: the import system's word for absent
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


def in_parts(name: str) -> None:
    """Let a package's modules be imported without its `__init__`, which runs only when somebody asks for a name of it.

    So `from prometheus_client.metrics import Counter` imports one module, and `from prometheus_client import Counter`
    still finds what it asks for. A package that was imported before stays as it is.
    """
    if name in sys.modules:
        return
    spec = find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"no module named {name!r}", name=name)
    package, loader = module_from_spec(spec), spec.loader

    def ask(attribute: str) -> Any:
        if not attribute.startswith("_") and find_spec(f"{name}.{attribute}") is not None:
            return import_module(f"{name}.{attribute}")
        if vars(package).pop("__getattr__", None) is not None:
            loader.exec_module(package)
            return getattr(package, attribute)
        raise AttributeError(f"module {name!r} has no attribute {attribute!r}", name=attribute, obj=package)

    vars(package)["__getattr__"] = ask
    sys.modules[name] = package
