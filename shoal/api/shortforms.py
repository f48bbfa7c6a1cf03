"""Short forms that people write, expanded to the full ones that are stored. Pure.

`expand` works on plain data before it is decoded. What is already full, or is no short form at all, passes unchanged:
the strict decoder judges it. Source of the forms: Docker's command line and the Compose file.
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from shoal.api.errors import Fault

Faults = list[Fault]
Expander = Callable[[Any, str, Faults], Any]

_PORT = re.compile(
    r"(?:(?P<address>\[[0-9a-fA-F:]+\]|[0-9]+(?:\.[0-9]+)+):)?(?:(?P<published>\d*):)?(?P<target>\d+)(?:/(?P<protocol>[a-z]+))?"
)
_RANGE = re.compile(r"\d+-\d+")
_PROPAGATIONS = ("rprivate", "private", "rshared", "shared", "rslave", "slave")


def expand(plain: Any) -> tuple[Any, tuple[Fault, ...]]:
    """Return an object's plain data in full, and what is wrong with its short forms."""
    faults: Faults = []
    if not isinstance(plain, Mapping):
        return plain, ()
    full = dict(plain)
    if isinstance(full.get("metadata"), Mapping):
        full["metadata"] = _with(full["metadata"], {"labels": _labels}, "metadata", faults)
    if full.get("kind") == "Service" and isinstance(full.get("spec"), Mapping):
        full["spec"] = _with(full["spec"], _SERVICE, "spec", faults)
    if full.get("kind") == "Network" and isinstance(full.get("spec"), Mapping):
        full["spec"] = _with(full["spec"], _NETWORK, "spec", faults)
    if full.get("kind") in ("Secret", "Config") and isinstance(full.get("spec"), Mapping):
        full["spec"] = _file_spec(full["spec"], faults)
    return full, tuple(faults)


def _file_spec(spec: Mapping[str, Any], faults: Faults) -> dict[str, Any]:
    """`text` is data in plain words, stored as base64; base64 may be broken into lines. Nothing of either is quoted."""
    full = {key: value for key, value in spec.items() if key != "text"}
    data, text = full.get("data"), spec.get("text")
    if isinstance(data, str):
        full["data"] = "".join(data.split())
    if text is None:
        return full
    if data is not None:
        faults.append(Fault("spec.text", "data and text are both given; one of them says it all"))
    elif isinstance(text, str):
        full["data"] = base64.b64encode(text.encode(errors="surrogateescape")).decode()
    else:
        faults.append(Fault("spec.text", "expected text (put it in quotes)"))
    return full


def _with(mapping: Mapping[str, Any], expanders: Mapping[str, Expander], path: str, faults: Faults) -> dict[str, Any]:
    """Return a copy in which the fields that have an expander are expanded."""
    return {
        key: expanders[key](value, f"{path}.{key}", faults) if key in expanders and value is not None else value
        for key, value in mapping.items()
    }


def _each(one: Expander) -> Expander:
    """Expand every item of a list; a single text is a list of one."""

    def run(value: Any, path: str, faults: Faults) -> Any:
        items = [value] if isinstance(value, (str, int)) and not isinstance(value, bool) else value
        if not isinstance(items, (list, tuple)):
            return value
        return [one(item, f"{path}[{index}]", faults) for index, item in enumerate(items)]

    return run


def _inside(expanders: Mapping[str, Expander]) -> Expander:
    """Expand fields of a mapping."""

    def run(value: Any, path: str, faults: Faults) -> Any:
        return _with(value, expanders, path, faults) if isinstance(value, Mapping) else value

    return run


def _named(field: str) -> Expander:
    """A text stands for a mapping with one field: `front` → `{name: front}`."""

    def run(value: Any, path: str, faults: Faults) -> Any:
        return {field: value} if isinstance(value, str) else value

    return run


def _scalar(value: Any) -> Any:
    """Spell a number or truth value as the text a container sees: 8080 → "8080", true → "true"."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (int, float)) else value


def _labels(value: Any, path: str, faults: Faults) -> Any:
    """A mapping, or a list of `key=value` (without `=`: an empty value)."""
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return {key: text for key, _, text in (item.partition("=") for item in value)}
    if isinstance(value, Mapping):
        return {_scalar(key): "" if item is None else _scalar(item) for key, item in value.items()}
    return value


def _env(value: Any, path: str, faults: Faults) -> Any:
    """A list of `NAME=value`, or a mapping (a null value: NAME alone, which unsets it)."""
    if isinstance(value, Mapping):
        return [str(_scalar(key)) if item is None else f"{_scalar(key)}={_scalar(item)}" for key, item in value.items()]
    return value


def _words(value: Any, path: str, faults: Faults) -> Any:
    """A list, or one line split as a shell would; no variable is replaced."""
    if isinstance(value, str):
        try:
            return shlex.split(value)
        except ValueError as error:
            faults.append(Fault(path, f"cannot be split into words: {str(error).lower()}; found {value!r}"))
            return []
    return [_scalar(item) for item in value] if isinstance(value, (list, tuple)) else value


def _port(value: Any, path: str, faults: Faults) -> Any:
    """`8080:80`, `80`, `8080:80/udp`, `127.0.0.1:8080:80`."""
    if isinstance(value, Mapping):
        digits = (key for key in ("target", "published") if str(value.get(key, "")).isdigit())
        return {**value, **{key: int(value[key]) for key in digits}}
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return value
    text = str(value).strip()
    if _RANGE.search(text):
        faults.append(Fault(path, f"found the port range {text!r}; ranges are not accepted, list each port"))
        return {"target": 1}
    match = _PORT.fullmatch(text)
    if match is None:
        faults.append(Fault(path, f"found {text!r}, expected a port such as 8080:80, 80 or 8080:80/udp"))
        return {"target": 1}
    port: dict[str, Any] = {"target": int(match["target"])}
    if match["published"]:
        port["published"] = int(match["published"])
    if match["protocol"]:
        port["protocol"] = match["protocol"]
    if match["address"]:
        port["address"] = match["address"].strip("[]")
    return port


def _mount(value: Any, path: str, faults: Faults) -> Any:
    """`data:/data`, `/srv:/srv:ro`, `/scratch` (a volume without a name)."""
    if isinstance(value, Mapping):
        return _with(value, {"labels": _labels, "driverOpts": _labels, "fileMode": _file_mode}, path, faults)
    if not isinstance(value, str):
        return value
    source, _, rest = value.partition(":")
    target, _, options = rest.partition(":")
    if not rest:
        source, target = "", source
    if source.startswith((".", "~")) or not target.startswith("/"):
        what = "a relative path" if source.startswith((".", "~")) else "no absolute target"
        faults.append(Fault(path, f"found {value!r} with {what}, expected volume:/target[:ro] or /source:/target[:ro]"))
    mount: dict[str, Any] = {"type": "bind" if source.startswith("/") else "volume", "target": target}
    if source:
        mount["source"] = source
    for option in filter(None, options.split(",")):
        _add_mount_option(mount, option, path, faults)
    return mount


def _add_mount_option(mount: dict[str, Any], option: str, path: str, faults: Faults) -> None:
    if option == "ro":
        mount["readOnly"] = True
    elif option == "nocopy" and mount["type"] == "volume":
        mount["noCopy"] = True
    elif option in _PROPAGATIONS and mount["type"] == "bind":
        mount["propagation"] = option
    elif option != "rw":
        faults.append(
            Fault(
                path, f"found the mount option {option!r}, expected ro, rw, nocopy or one of {', '.join(_PROPAGATIONS)}"
            )
        )


def _file(value: Any, path: str, faults: Faults) -> Any:
    """The name of a secret or config, or a mapping."""
    if not isinstance(value, Mapping):
        return {"source": value}
    return _with(value, {"fileMode": _file_mode, "owner": _number_text, "group": _number_text}, path, faults)


def _number_text(value: Any, path: str, faults: Faults) -> Any:
    """A user or group id, as text."""
    return _scalar(value)


def _file_mode(value: Any, path: str, faults: Faults) -> Any:
    """Permission bits in octal, as text: `0444` and `"0444"`."""
    return int(value, 8) if isinstance(value, str) and re.fullmatch(r"0o?[0-7]{1,5}", value) else value


def _health_test(value: Any, path: str, faults: Faults) -> Any:
    """One line is for the container's shell."""
    return ["CMD-SHELL", value] if isinstance(value, str) else value


def _platform(value: Any, path: str, faults: Faults) -> Any:
    """`linux/amd64`, `linux`."""
    if not isinstance(value, str):
        return value
    system, _, architecture = value.partition("/")
    return {"os": system, **({"architecture": architecture} if architecture else {})}


def _preference(value: Any, path: str, faults: Faults) -> Any:
    """`spread=node.labels.zone`, or the label alone."""
    return {"spread": value.removeprefix("spread=").strip()} if isinstance(value, str) else value


def _generic(value: Any, path: str, faults: Faults) -> Any:
    """`gpu=2`, a list of such, or a mapping of kind to count."""
    if isinstance(value, Mapping):
        return [{"kind": str(_scalar(kind)), "count": _number_of(count)} for kind, count in value.items()]
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        return value
    return [_generic_one(item, f"{path}[{index}]", faults) for index, item in enumerate(items)]


def _generic_one(value: Any, path: str, faults: Faults) -> Any:
    if not isinstance(value, str):
        return value
    kind, is_given, count = (part.strip() for part in value.partition("="))
    if not is_given or not re.fullmatch(r"-?\d+", count):
        faults.append(Fault(path, f"found {value!r}, expected a kind and how many, such as gpu=2"))
        return {"kind": kind, "count": 1}
    return {"kind": kind, "count": int(count)}


def _number_of(value: Any) -> Any:
    return int(value) if isinstance(value, str) and re.fullmatch(r"-?\d+", value.strip()) else value


def _ulimits(value: Any, path: str, faults: Faults) -> Any:
    """`nofile=1024:2048`, or a mapping of name to one number or to soft and hard."""
    return list(_each_ulimit(value)) if isinstance(value, (Mapping, list, tuple)) else value


def _each_ulimit(value: Any) -> Iterator[Any]:
    pairs = value.items() if isinstance(value, Mapping) else ((None, item) for item in value)
    for name, item in pairs:
        if name is None and isinstance(item, str) and "=" in item:
            name, _, item = item.partition("=")
        if isinstance(item, str):
            soft, _, hard = item.partition(":")
            item = {"soft": _number(soft), "hard": _number(hard or soft)}
        elif isinstance(item, int) and not isinstance(item, bool):
            item = {"soft": item, "hard": item}
        yield {"name": name, **item} if name is not None and isinstance(item, Mapping) else item


def _number(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        return text


def _nameservers(value: Any, path: str, faults: Faults) -> Any:
    """One address, or a list of them."""
    if isinstance(value, str):
        return {"nameservers": [value]}
    return {"nameservers": list(value)} if isinstance(value, (list, tuple)) else value


def _text_list(value: Any, path: str, faults: Faults) -> Any:
    return [value] if isinstance(value, str) else value


_SERVICE: dict[str, Expander] = {
    "command": _words,
    "args": _words,
    "groups": _words,
    "user": lambda value, path, faults: _scalar(value),
    "env": _env,
    "ports": _each(_port),
    "mounts": _each(_mount),
    "networks": _each(_named("name")),
    "secrets": _each(_file),
    "configs": _each(_file),
    "containerLabels": _labels,
    "sysctls": _labels,
    "ulimits": _ulimits,
    "hosts": _text_list,
    "capAdd": _text_list,
    "capDrop": _text_list,
    "dns": _nameservers,
    "healthcheck": _inside({"test": _health_test}),
    "resources": _inside({"reservations": _inside({"generic": _generic})}),
    "restart": _named("condition"),
    "endpoint": _named("mode"),
    "logDriver": lambda value, path, faults: (
        {"name": value} if isinstance(value, str) else _inside({"options": _labels})(value, path, faults)
    ),
    "placement": _inside({"constraints": _text_list, "preferences": _each(_preference), "platforms": _each(_platform)}),
}
"""Field of a service's spec → what turns its short form into the full one."""

_NETWORK: dict[str, Expander] = {"subnets": _each(_named("subnet")), "options": _labels}
"""Likewise of a network's spec: `subnets: [10.1.0.0/24]`."""
