"""How much memory a process may still take, as far as the system tells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

_PROCESS, _GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60
"""Control groups of the first version write a limit near 2^63 where there is none."""


def available_memory(device: torch.device) -> int | None:
    """Return how many bytes can still be taken on a device, None where nothing tells.

    On a CPU that is the least of what the machine has available, what the control groups around the process leave it,
    and what its own limits (``ulimit -v``, ``ulimit -d``) do.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    if device.type != "cpu":
        return None
    found = [*_of_the_machine(_PROCESS), *_of_groups(_PROCESS, _GROUPS), *_of_limits(_PROCESS)]
    return max(0, min(found)) if found else None


def _of_the_machine(process: Path) -> Iterator[int]:
    yield from _kilobytes(process / "meminfo", "MemAvailable")


def _of_limits(process: Path) -> Iterator[int]:
    if resource is None:
        return
    for limit, field in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        most = resource.getrlimit(limit)[0]
        if most != resource.RLIM_INFINITY:
            yield from (most - used for used in _kilobytes(process / "self" / "status", field))


def _of_groups(process: Path, root: Path) -> Iterator[int]:
    """Yield what each control group with a limit leaves, from the process's own to the outermost."""
    for line in _text(process / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            names = ("memory.max", "memory.current", "inactive_file")
            top = root
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            top = root / "memory"
        else:
            continue
        group = top / path.lstrip("/")
        for place in (group, *group.parents):
            if place.is_relative_to(top):
                yield from _left(place, *names)


def _left(group: Path, limit: str, usage: str, cache: str) -> Iterator[int]:
    most, used = _text(group / limit).strip(), _text(group / usage).strip()
    if most.isdecimal() and used.isdecimal() and int(most) < _NO_LIMIT:
        # Cached files are given up before memory runs out.
        stat = dict(line.split(" ", 1) for line in _text(group / "memory.stat").splitlines() if " " in line)
        yield int(most) - int(used) + int(stat.get(cache, 0))


def _kilobytes(path: Path, field: str) -> Iterator[int]:
    for line in _text(path).splitlines():
        name, _, value = line.partition(":")
        if name == field:
            yield int(value.split()[0]) * 1024


def _text(path: Path) -> str:
    """Return what a file of the system says, nothing where it has none: other systems, or inside a container."""
    try:
        return path.read_text()
    except OSError:
        return ""
