"""Counts of the layout: folders, circles, levels, long modules. ``python -m benchmarks.layout`` fails at too many."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import FrameType
from typing import Any

import grimp

ROOT = Path(__file__).parents[1]
PACKAGES = ("relprop", "rule_registry")
STAGES = ("graph", "tracing", "assign", "rewrite", "run", "explanation")
"""The folders that a picture goes through, in order. Each imports only those before it."""
ABOVE = ("explainer", "options", "verification", "evaluation", "engines", "compat", "cli")
"""What stands on them, none of which they import."""
LONGEST, LONGEST_TEST = 320, 600
"""Lines of a module, and of one of tests."""


@dataclass(frozen=True)
class Count:
    """One number of the layout, and what it may be at most."""

    name: str
    found: int
    most: int
    where: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether it is low enough."""
        return self.found <= self.most

    def __str__(self) -> str:
        places = f": {', '.join(self.where)}" if self.where and not self.holds else ""
        return f"{'ok ' if self.holds else 'NOT'} {self.name:<58} {self.found:>3} (at most {self.most}){places}"


def count_layout() -> tuple[Count, ...]:
    """Count everything that the layout promises."""
    imports = read_imports()
    circles = find_circles(imports)
    against = imports_against_the_stages(imports)
    levels = count_levels(rooms_of(imports))
    root = sorted(path.name for path in (ROOT / "relprop").glob("*.py"))
    visited = rooms_visited()
    return (
        Count("modules at the root of relprop", len(root), 8, tuple(root)),
        Count("circles of imports, type checking included", len(circles), 0, tuple(" -> ".join(c) for c in circles)),
        Count("imports against the order of the stages", len(against), 0, tuple(against)),
        Count("levels of the import graph, a folder being one room", levels, 11),
        Count("folders that a tensor visits in Explainer.__call__", len(visited), 6, tuple(sorted(visited))),
        long_modules("modules above 320 lines", ("relprop", "rule_registry", "benchmarks"), LONGEST),
        long_modules("test modules above 600 lines", ("tests",), LONGEST_TEST),
    )


@cache
def read_imports() -> dict[str, frozenset[str]]:
    """Return the modules that each module imports, those under ``TYPE_CHECKING`` included."""
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=False, cache_dir=None)
    return {module: frozenset(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


def find_circles(imports: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return circles of imports, each broken at its first import before the next is looked for."""
    left = {module: set(targets) for module, targets in imports.items()}
    found = []
    while True:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            circle = error.args[1][::-1]  # graphlib lists a circle against its arrows
            found.append(circle)
            left[circle[0]].discard(circle[1])
        else:
            return found


def imports_against_the_stages(imports: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the imports of a stage from a later one, or from what stands on all of them."""
    order = {f"relprop.{name}": k for k, name in enumerate((*STAGES, *ABOVE))}

    def place(module: str) -> int | None:
        return order.get(".".join(module.split(".")[:2]))

    return [
        f"{module} -> {target}"
        for module, targets in sorted(imports.items())
        for target in sorted(targets)
        if (a := place(module)) is not None and a < len(STAGES) and (b := place(target)) is not None and b > a
    ]


def rooms_of(imports: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """Return which rooms each room imports: the folders of relprop, its modules beside them, and rule_registry."""

    def room(module: str) -> str:
        return ".".join(module.split(".")[:2]) if module.startswith("relprop.") else module.split(".")[0]

    rooms: dict[str, set[str]] = {}
    for module, targets in imports.items():
        rooms.setdefault(room(module), set()).update(room(target) for target in targets)
    return {name: targets - {name} for name, targets in rooms.items()}


def count_levels(rooms: Mapping[str, Iterable[str]]) -> int:
    """Return the length of the longest chain of rooms that import each other; rooms in a circle are one."""
    part_of = {name: min(group) for group in _connected(rooms) for name in group}
    merged: dict[str, set[str]] = {}
    for name, targets in rooms.items():
        merged.setdefault(part_of[name], set()).update(part_of[t] for t in targets if part_of[t] != part_of[name])
    depth: dict[str, int] = {}
    for name in TopologicalSorter(merged).static_order():
        depth[name] = 1 + max((depth[target] for target in merged.get(name, ())), default=0)
    return max(depth.values(), default=0)


def _connected(rooms: Mapping[str, Iterable[str]]) -> list[frozenset[str]]:
    """Return groups of rooms each of which reaches all others of its group."""

    def reached(start: str) -> set[str]:
        found, left = {start}, [start]
        while left:
            new = set(rooms.get(left.pop(), ())) - found
            found |= new
            left += new
        return found

    reach = {name: reached(name) for name in {*rooms, *(t for targets in rooms.values() for t in targets)}}
    return list({frozenset(b for b in reach[a] if a in reach[b]) for a in reach})


def rooms_visited() -> set[str]:
    """Return the folders of relprop whose functions run in one call of an explainer, capture included."""
    import torch

    import relprop

    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 5)
    ).eval()
    explainer = relprop.Explainer(model, layers=["2"])
    base = str(ROOT / "relprop") + "/"
    files: set[str] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(base):
            files.add(name.removeprefix(base))

    x = torch.randn(2, 3, 8, 8)
    sys.setprofile(note)
    try:
        explainer(x)
    finally:
        sys.setprofile(None)
    return {file.split("/")[0] for file in files if "/" in file}


def long_modules(name: str, folders: Iterable[str], most: int) -> Count:
    """Count the modules with more lines than allowed."""
    sizes = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
    }
    long = {path: lines for path, lines in sizes.items() if lines > most}
    return Count(name, len(long), 0, tuple(f"{path} ({lines})" for path, lines in sorted(long.items())))


def main() -> None:
    """Print every count; exit with 1 if one does not hold."""
    counts = count_layout()
    print(*counts, sep="\n")
    sys.exit(not all(count.holds for count in counts))


if __name__ == "__main__":
    main()
