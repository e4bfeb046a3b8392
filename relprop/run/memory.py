"""How much memory a process may still take, and one error where it runs out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from relprop.errors import RelpropError

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

_PROCESS, _GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60
"""Control groups of the first version write a limit near 2^63 where there is none."""


class OutOfMemoryError(RelpropError, MemoryError):
    """So many samples at once do not fit into memory."""


@contextmanager
def memory_for(samples: int) -> Iterator[None]:
    """Turn every way of running out of memory into one error that says which batch size to try.

    Parameters
    ----------
    samples : int
        How many are explained at once.

    Raises
    ------
    OutOfMemoryError
    """
    try:
        yield
    except OutOfMemoryError:
        raise
    except Exception as error:  # others wrap it, as a failing capture does
        if not is_out_of_memory(error):
            raise
        advice = (
            f"try a batch size of {samples // 2}"
            if samples > 1
            else "it is a single one already, so take smaller pictures, a smaller model or another device"
        )
        raise OutOfMemoryError(f"out of memory with a batch of {samples}: {advice}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or the cause of it, is that memory ran out."""
    # PyTorch's CPU allocator has no error class of its own.
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def available_memory(device: torch.device) -> int | None:
    """Return how many bytes can still be taken on a device, None where nothing says so.

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
