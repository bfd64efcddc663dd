"""The sources as the house rules see them: modules, rooms, and who imports whom.

`python -m tests.house` prints the arrows between the rooms.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("proto", "server", "client", "loadgen")
GENCODE = ROOT / "proto/swaptier"

PURE_FOLDERS = (
    "swaptier_server.tier",
    "swaptier_client.mm",
    "swaptier_loadgen.lockstep",
    "swaptier_loadgen.explore",
)
PURE_MODULES = (
    "swaptier_wire.types",
    "swaptier_wire.errors",
    "swaptier_wire.checksum",
    "swaptier_wire.batches",
    "swaptier_loadgen.host.workload",
    "swaptier_loadgen.host.oracle",
)
"""Pure because the design says so; a module that calls itself pure is held to the same."""

SHELLS_IN_PURE_FOLDERS = ("swaptier_loadgen.explore.replay",)
"""A schedule that was found is replayed against a server."""

ROOMS = {
    "swaptier_loadgen": {
        "": ("cli",),
        "cli": ("race", "measure", "explore", "lockstep", "host", "faults"),
        "race": ("host", "faults"),
        "measure": ("lockstep", "host"),
        "explore": ("lockstep",),
        "host": ("faults",),
        "faults": (),
        "lockstep": (),
    },
    "swaptier_server": {
        "": ("rpc", "access", "swapfile", "tier"),
        "rpc": ("access", "swapfile", "tier"),
        "access": ("tier",),
        "swapfile": ("tier",),
        "tier": (),
    },
    "swaptier_client": {"": ("mm",), "mm": ()},
}
"""Which rooms of its own package each room may import, from the top room to the lowest; "" is what lies at the root."""


class Module(NamedTuple):
    """One source file, read and parsed."""

    name: str
    """Dotted, as it is imported; `tests.` and a path for a test."""
    source: str
    tree: ast.Module
    nodes: list[ast.AST]
    """Every node of the tree; walked once, since most rules look at all of them."""

    @property
    def docstring(self) -> str:
        """What it says of itself."""
        return ast.get_docstring(self.tree) or ""

    @property
    def is_test(self) -> bool:
        """Whether it is not part of the packages."""
        return self.name.startswith("tests.")

    @property
    def must_be_pure(self) -> bool:
        """Whether the design puts it into the pure core."""
        return self.name in PURE_MODULES or (
            any(self.name.startswith(f"{folder}.") for folder in PURE_FOLDERS)
            and self.name not in SHELLS_IN_PURE_FOLDERS
            and not self.is_test
        )

    @property
    def claims_to_be_pure(self) -> bool:
        """Whether its docstring says "Pure" and takes nothing back."""
        return re.search(r"^Pure\b(?!, but)", self.docstring, re.MULTILINE) is not None


def parse(name: str, source: str) -> Module:
    """Return *source* as a module."""
    tree = ast.parse(source)
    return Module(name, source, tree, list(ast.walk(tree)))


def read_modules() -> list[Module]:
    """Return every source file of the packages and the tests, gencode apart."""
    modules = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if GENCODE not in path.parents:
                dotted = ".".join(path.relative_to(ROOT / folder).with_suffix("").parts)
                modules.append(parse(dotted.removesuffix(".__init__"), path.read_text()))
    tests = sorted((ROOT / "tests").rglob("*.py"))
    return modules + [parse(".".join(path.relative_to(ROOT).with_suffix("").parts), path.read_text()) for path in tests]


MODULES = read_modules()
OURS = {module.name: module for module in MODULES if not module.is_test}


def imports(module: Module) -> Iterator[str]:
    """Yield the dotted name of everything *module* imports, wherever it does; submodules of ours in full."""
    for node in module.nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in OURS else node.module


def imported_names(module: Module) -> Iterator[str]:
    """Yield everything that *module* imports, with the module that it is imported from."""
    for node in module.nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            origin = f"{node.module}." if isinstance(node, ast.ImportFrom) and node.module else ""
            yield from (f"{origin}{alias.name}" for alias in node.names)


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    """Whether *name* is one of *packages* or inside one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def room_of(name: str) -> tuple[str, str]:
    """Return the package that *name* is in, and its room there: "" for a module at the root."""
    package, _, rest = name.partition(".")
    room = rest.partition(".")[0]
    is_room = room in ROOMS.get(package, {}) or name.count(".") > 1
    return package, room if is_room else ""


def is_leaf(name: str) -> bool:
    """Whether *name*, a module at the root of its package, comes to no room: not by what it imports either."""
    ours = [other for other in imports(OURS[name]) if other in OURS and room_of(other)[0] == room_of(name)[0]]
    return all(room_of(other)[1] == "" and is_leaf(other) for other in ours)


def cycle_of(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the nodes of one cycle of *graph*, or none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as cycle:
        return [str(node) for node in cycle.args[1]]
    return []


def import_cycle(modules: dict[str, Module]) -> list[str]:
    """Return the modules of one import cycle, or none.

    Imports within functions count, they only hide a cycle; so do imports for types alone: a reader follows both.
    """
    return cycle_of(
        {name: {other for other in imports(module) if other in modules} for name, module in modules.items()}
    )


def arrows() -> Counter[tuple[str, str]]:
    """Return how many imports lead from one room to another."""
    named = {name: ".".join(room_of(name)).rstrip(".") for name in OURS}
    return Counter(
        (named[name], named[other])
        for name, module in OURS.items()
        for other in imports(module)
        if other in OURS and named[other] != named[name]
    )


if __name__ == "__main__":
    for (above, below), count in sorted(arrows().items()):
        sys.stdout.write(f"{above:28} -> {below:28} {count:3}\n")
