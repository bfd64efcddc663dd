"""The house rules of the sources, enforced: who imports whom, what is pure, how long, and what is never written.

A rule is a function from one module to what it found wrong. Each is also shown a snippet that breaks it, because a rule
that cannot fail guards nothing. What ruff and mypy enforce is not repeated here.
"""

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.house import (
    FOLDERS,
    MODULES,
    OURS,
    ROOMS,
    ROOT,
    Module,
    cycle_of,
    import_cycle,
    imported_names,
    imports,
    is_leaf,
    is_within,
    parse,
    room_of,
)

FUNCTION_LINES_MAX = 70
"""A function is read without scrolling; about 60 is the aim, the rest is signature and docstring."""
MODULE_LINES_MAX = 400
"""A module is read in one sitting; about 300 is the aim."""
TEST_MODULE_LINES_MAX = 600
"""Cases are read one at a time."""
FOLDER_MODULES_MAX = 20
"""A folder is taken in at a glance; a larger one has rooms in it that want names."""

CORE_IMPORTS = {
    "__future__",
    *("bisect", "collections", "contextlib", "copy", "dataclasses", "difflib", "enum", "fractions", "functools"),
    *("hashlib", "heapq", "itertools", "json", "math", "operator", "re", "statistics", "string", "struct", "types"),
    *("typing", "lz4", "xxhash"),
}
"""What the pure core may use: no I/O, no clock, no threads, no event loop, no protobuf. `random` has its own rule."""

CLAIM_IMPORTS = CORE_IMPORTS | {"annotated_types", "cyclopts", "hdrh", "hmac", "ipaddress", "pydantic"}
"""What pure modules of a shell may use besides: containers, checked records and their flags, comparisons of secrets."""

INSPECTORS = {
    "swaptier_loadgen.explore.transcript": {"textwrap"},
    "swaptier_loadgen.explore.value_writer": {"dis"},
    "swaptier_loadgen.explore.state_key": {"gc", "marshal"},
}
"""The explorer looks into suspended generators, writes down what it finds, and draws it: no I/O in that either."""

PURE_WIRE = ("swaptier_wire.types", "swaptier_wire.errors", "swaptier_wire.checksum")
"""The words that host and tier share."""

IN_PROCESS = ("swaptier_loadgen", "swaptier_client.mm", "swaptier_server.tier", *PURE_WIRE)
"""What runs mm against the tier without a network."""

MAY_IMPORT = {
    "swaptier_wire.types": (),
    "swaptier_wire.errors": (),
    "swaptier_wire.checksum": (),
    "swaptier_wire.batches": ("swaptier_wire.types", "swaptier_wire.errors"),
    "swaptier_wire": ("swaptier_wire", "swaptier"),
    "swaptier_server.tier": ("swaptier_server.tier", *PURE_WIRE),
    "swaptier_server": ("swaptier_server", "swaptier_wire", "swaptier"),
    "swaptier_client.mm": ("swaptier_client.mm", *PURE_WIRE),
    "swaptier_client": ("swaptier_client", "swaptier_wire", "swaptier"),
    "swaptier_loadgen.lockstep": IN_PROCESS,
    "swaptier_loadgen.explore": IN_PROCESS,
    "swaptier_loadgen.explore.replay": ("swaptier_loadgen", "swaptier_client", "swaptier_server.tier", "swaptier_wire"),
    "swaptier_loadgen": ("swaptier_loadgen", "swaptier_client", "swaptier_wire", "swaptier"),
}
"""Of our own packages, by the longest name that fits the importer. Server and client meet in one process only."""

PRINTERS = re.compile(r"\.cli\.\w+$|\.__main__$")

EXCEPTION_WITH_REASON = re.compile(
    r"#\s*(?:noqa: [A-Z]+[0-9]+(?:, ?[A-Z]+[0-9]+)*|type: ignore\[[\w, -]+\])[\s#-]+.*[a-z]{4}"
)
EXCEPTION = re.compile(r"#\s*(?:noqa|type:\s*ignore)\b.*")

PRIVATE_PATH = re.compile(r"(?:from|import) +[A-Za-z_.]*\._[a-z]")
"""As `git grep` would look for it: a generator that is delegated to is found, too, when it is private to its object."""

FOREIGN = re.compile(
    "|".join(
        (
            r"(?<![\w.])/(?:work|home|Users|mnt)/\w",  # a path of somebody's machine
            r"(?<![\w.])/tmp/[\w.-]+/",
            r"(?:pypi|pythonhosted|npmjs|crates)\.(?:org|io|com)",  # an index: which one is the machine's business
            r"proxy\.golang|/simple/",
            r"--(?:extra-)?index-url|--find-links",
        )
    )
)


def importer_rule(name: str) -> tuple[str, ...] | None:
    """Return what *name* may import of ours; None for a module under no rule."""
    fitting = [package for package in MAY_IMPORT if is_within(name, (package,))]
    return MAY_IMPORT[max(fitting, key=len)] if fitting else None


# The rules.


def imports_only_whom_it_may(module: Module) -> list[str]:
    """The picture in the design: mm and tier meet nobody, the explorer meets no gRPC."""
    allowed = importer_rule(module.name)
    if allowed is None:
        return []
    ours = [name for name in imports(module) if name.partition(".")[0].startswith("swaptier")]
    return [f"imports {name}" for name in ours if not is_within(name, allowed)]


def imports_only_rooms_below(module: Module) -> list[str]:
    """Arrows between the rooms of a package point downwards; a leaf of the root is below every room."""
    package, room = room_of(module.name)
    if package not in ROOMS:
        return []
    if room not in ROOMS[package]:
        return [f"is in {room}, a room that ROOMS does not have"]
    found = []
    for name in imports(module):
        theirs = room_of(name)
        if theirs[0] != package or theirs[1] in (room, *ROOMS[package][room]) or name not in OURS:
            continue
        if theirs[1] or not is_leaf(name):
            found.append(f"imports {name}, which is not in a room below")
    return found


def imports_nothing_for_its_types_alone(module: Module) -> list[str]:
    """An import that a type checker alone sees holds a circle open."""
    if module.is_test:
        return []
    lines = enumerate(module.source.splitlines(), 1)
    return [f"line {number}: TYPE_CHECKING" for number, line in lines if "TYPE_CHECKING" in line]


def imports_no_private_part(module: Module) -> list[str]:
    """What a library keeps to itself may change in any version, and what a module of ours keeps to itself, too."""
    found = [
        f"line {number}: {line.strip()}"
        for number, line in enumerate(module.source.splitlines(), 1)
        if PRIVATE_PATH.search(line)
    ]
    return found + [
        f"imports {name}"
        for name in imported_names(module)
        if any(part.startswith("_") and not part.endswith("__") for part in name.split("."))
    ]


def is_pure_where_it_must_be(module: Module) -> list[str]:
    """The core says "Pure." in its docstring, so that a reader need not know where it stands."""
    empty = not module.tree.body[1:]  # a package that is only a docstring
    if module.must_be_pure and not module.claims_to_be_pure and not empty:
        return ["belongs to the pure core and its docstring has no line that begins with Pure"]
    return []


def keeps_its_claim_to_be_pure(module: Module) -> list[str]:
    """Whoever says "Pure" imports only what is: I/O, time, threads and chance come in as arguments."""
    if not (module.claims_to_be_pure or module.must_be_pure) or module.is_test:
        return []
    allowed = (CORE_IMPORTS if module.must_be_pure else CLAIM_IMPORTS) | INSPECTORS.get(module.name, set())
    found = []
    for name in imports(module):
        if name in OURS:
            if not OURS[name].claims_to_be_pure and OURS[name].tree.body[1:]:
                found.append(f"is pure and imports {name}, which is not")
        elif name == "random":
            found += unseeded_chance(module)
        elif name.partition(".")[0] not in allowed:
            found.append(f"is pure and imports {name}")
    return found


def unseeded_chance(module: Module) -> list[str]:
    """Of `random`, a pure module names only the class of the generator it is given, or makes one from a seed."""
    found = []
    for node in module.nodes:
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            found += [f"line {node.lineno}: random.{n.name}" for n in node.names if n.name != "Random"]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
            found += [f"line {node.lineno}: random.{node.attr}"] if node.attr != "Random" else []
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Random") and not node.args:
            found.append(f"line {node.lineno}: a generator without a seed")
    return found


def has_a_docstring(module: Module) -> list[str]:
    """A module says what it is; its public classes and functions are ruff's business."""
    return [] if module.docstring else ["has no module docstring"]


def names_its_tests_in_sentences(module: Module) -> list[str]:
    """`test_load_2` fails without saying what is broken."""
    return [
        f"{node.name} is not a sentence"
        for node in module.nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and len(node.name.split("_")) < 4
    ]


def is_absolute(module: Module) -> list[str]:
    """A relative import hides where a thing comes from."""
    return [
        f"line {node.lineno}: relative import"
        for node in module.nodes
        if isinstance(node, ast.ImportFrom) and node.level
    ]


def catches_what_it_names(module: Module) -> list[str]:
    """A bare except swallows the interrupt, too."""
    return [
        f"line {node.lineno}: bare except"
        for node in module.nodes
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]


def prints_only_in_the_cli(module: Module) -> list[str]:
    """Everything else logs."""
    if module.is_test or PRINTERS.search(module.name):
        return []
    return [
        f"line {node.lineno}: print"
        for node in module.nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ]


CHANNEL_MAKERS = ("swaptier_wire.channels", "tests.proto.test_status")
"""The one that all calls take, and a test of grpcio's other client."""


def makes_channels_in_one_place(module: Module) -> list[str]:
    """A channel made elsewhere follows http_proxy and its like: pages go through whatever they name."""
    if module.name in CHANNEL_MAKERS:
        return []
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in module.nodes
        if isinstance(node, ast.Attribute) and node.attr in ("insecure_channel", "secure_channel")
    ] + [f"imports {name}" for name in imported_names(module) if name.endswith("secure_channel")]


def never_sleeps_in_tests(module: Module) -> list[str]:
    """A test waits for what it waits for. sleep(0) is a yield; a container has only its outside to be watched."""
    if not module.is_test or ("pytest.mark.container" in module.source and "pytestmark" in module.source):
        return []
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in module.nodes
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).rpartition(".")[2] == "sleep"
        and ast.unparse(node).rpartition("(")[2] != "0)"
    ]


def mocks_nothing(module: Module) -> list[str]:
    """A fake that works is a test of the real thing; a mock is a test of the mock."""
    return [f"imports {name}" for name in imports(module) if is_within(name, ("unittest.mock", "mock", "pytest_mock"))]


def explains_its_exceptions(module: Module) -> list[str]:
    """Whoever switches a check off says why, on that line."""
    return [
        f"line {number}: {found[0]}"
        for number, line in enumerate(module.source.splitlines(), 1)
        if (found := EXCEPTION.search(line)) and '"' not in line and not EXCEPTION_WITH_REASON.search(line)
    ]


def is_short(module: Module) -> list[str]:
    """Read without scrolling, read in one sitting."""
    lines = len(module.source.splitlines())
    limit = TEST_MODULE_LINES_MAX if module.is_test else MODULE_LINES_MAX
    found = [f"has {lines} lines, {limit} are the most"] if lines > limit else []
    for node in module.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                found.append(f"line {node.lineno}: {node.name} has {length} lines, {FUNCTION_LINES_MAX} are the most")
    return found


Rule = Callable[[Module], list[str]]
RULES: list[Rule] = [
    imports_only_whom_it_may,
    imports_only_rooms_below,
    imports_nothing_for_its_types_alone,
    imports_no_private_part,
    is_pure_where_it_must_be,
    keeps_its_claim_to_be_pure,
    has_a_docstring,
    names_its_tests_in_sentences,
    is_absolute,
    catches_what_it_names,
    prints_only_in_the_cli,
    makes_channels_in_one_place,
    never_sleeps_in_tests,
    mocks_nothing,
    explains_its_exceptions,
    is_short,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps_the_rule(rule: Rule) -> None:
    """All findings at once, each with its module."""
    findings = [f"{module.name}: {finding}" for module in MODULES for finding in rule(module)]
    assert not findings, f"{rule.__doc__}\n" + "\n".join(findings)


@pytest.mark.parametrize("package", sorted({name.partition(".")[0] for name in OURS}))
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    """Whoever reads one of a circle has to read all of them."""
    assert not import_cycle({name: module for name, module in OURS.items() if is_within(name, (package,))})


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_lie_one_above_the_other(package: str) -> None:
    """A table that allowed a circle would allow what it is there to forbid; each of its rooms has something in it."""
    assert not cycle_of(ROOMS[package])
    assert {room_of(name)[1] for name in OURS if room_of(name)[0] == package} == set(ROOMS[package])


def crowded_folders(root: Path) -> list[str]:
    """Return the folders below *root* that hold more modules than a reader takes in."""
    counts = Counter(path.parent for path in root.rglob("*.py"))
    return [f"{folder} has {count} modules" for folder, count in counts.items() if count > FOLDER_MODULES_MAX]


@pytest.mark.parametrize("folder", [*FOLDERS, "tests"])
def test_no_folder_is_crowded(folder: str) -> None:
    """Who looks for a line finds its folder by the names, then its module; both lists have to be short."""
    assert not crowded_folders(ROOT / folder)


def tracked_texts() -> Iterator[tuple[str, str]]:
    """Yield path and text of what is published: everything but this file, which has to name what it forbids."""
    files = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]  # a file in a work tree
    for folder in (*FOLDERS, "docs", "tests", "deploy", ".ci"):
        files += [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    for path in sorted(files):
        if path != Path(__file__).resolve():
            yield str(path.relative_to(ROOT)), path.read_text(errors="replace")


def foreign_words(text: str) -> list[str]:
    """Return what in *text* belongs to one machine or names a package index."""
    return [found[0] for found in FOREIGN.finditer(text)]


def test_nothing_names_a_machine_or_a_package_index() -> None:
    """The project is the same wherever it lies; where packages come from is the machine's business."""
    findings = {path: words for path, text in tracked_texts() if (words := foreign_words(text))}
    assert not findings


# Negative controls: each rule fails where it should, and only there.

MM = "swaptier_client.mm.fault"
TIER = "swaptier_server.tier.area"
SHELL = "swaptier_client.transport"
EXPLORE = "swaptier_loadgen.explore.world"
TEST = "tests.client.test_it"
PURE = '"""A module.\n\nPure.\n"""\n'

BROKEN: list[tuple[Rule, str, str]] = [
    (imports_only_whom_it_may, MM, "import swaptier_server.tier.area"),
    (imports_only_whom_it_may, MM, "from swaptier_wire import request_codec"),
    (imports_only_whom_it_may, MM, "from swaptier_client.transport import TierStream"),
    (imports_only_whom_it_may, TIER, "from swaptier_client.mm.effects import Load"),
    (imports_only_whom_it_may, TIER, "def f():\n    from swaptier.v1 import swaptier_pb2"),
    (imports_only_whom_it_may, SHELL, "from swaptier_server import service"),
    (imports_only_whom_it_may, SHELL, "import swaptier_loadgen.host.oracle"),
    (imports_only_whom_it_may, EXPLORE, "from swaptier_client.transport import TierStream"),
    (imports_only_whom_it_may, EXPLORE, "from swaptier_wire.status import abort"),
    (imports_only_whom_it_may, "swaptier_loadgen.race.race", "from swaptier_server.tier.area import Area"),
    (imports_only_whom_it_may, "swaptier_wire.types", "from swaptier_wire.errors import InvalidRequest"),
    (imports_only_whom_it_may, "swaptier_wire.status", "from swaptier_server.config import Settings"),
    (imports_only_rooms_below, "swaptier_loadgen.host.process", "from swaptier_loadgen.race.race import race"),
    (imports_only_rooms_below, "swaptier_loadgen.race.race", "def f():\n    import swaptier_loadgen.explore.world"),
    (imports_only_rooms_below, "swaptier_loadgen.faults.spec", "if x:\n    from swaptier_loadgen.host import oracle"),
    (imports_only_rooms_below, "swaptier_loadgen.attic.old", "x = 1"),
    (imports_only_rooms_below, TIER, "from swaptier_server.rpc.service import SwapTierService"),
    (imports_only_rooms_below, "swaptier_server.access.tls", "import swaptier_server.lifecycle"),
    (imports_only_rooms_below, "swaptier_server.access.tls", "from swaptier_server.swapfile import rows"),
    (imports_nothing_for_its_types_alone, MM, "import typing\nif typing.TYPE_CHECKING:\n    import x"),
    (imports_nothing_for_its_types_alone, SHELL, "from typing import TYPE_CHECKING as x"),
    (imports_no_private_part, SHELL, "import grpc" + "._common"),
    (imports_no_private_part, SHELL, "from grpc import _common"),
    (imports_no_private_part, SHELL, "from grpc import (\n    aio,\n    _common,\n)"),
    (imports_no_private_part, SHELL, "from _typeshed.wsgi import WSGIApplication"),
    (imports_no_private_part, TEST, "def f(self):\n    yield from self" + "._pages()"),
    (is_pure_where_it_must_be, MM, '"""A module."""\nx = 1'),
    (is_pure_where_it_must_be, MM, '"""A module.\n\nPure, but for a file.\n"""\nx = 1'),
    *(
        (keeps_its_claim_to_be_pure, MM, f"{PURE}import {name}")
        for name in ("asyncio", "threading", "time", "os", "io", "grpc", "google.protobuf.message", "pathlib", "socket")
    ),
    (keeps_its_claim_to_be_pure, MM, f"{PURE}from time import monotonic"),
    (keeps_its_claim_to_be_pure, MM, f"{PURE}import random\nx = random.random()"),
    (keeps_its_claim_to_be_pure, MM, f"{PURE}import random\nx = random.Random()"),
    (keeps_its_claim_to_be_pure, MM, f"{PURE}from random import randrange"),
    (keeps_its_claim_to_be_pure, "swaptier_loadgen.race.report", f"{PURE}import os"),
    (keeps_its_claim_to_be_pure, "swaptier_loadgen.race.report", f"{PURE}import swaptier_wire.status"),
    (has_a_docstring, SHELL, "x = 1"),
    (names_its_tests_in_sentences, TEST, "def test_load_2(): pass"),
    (is_absolute, SHELL, "from . import driver"),
    (catches_what_it_names, SHELL, "try:\n    f()\nexcept:\n    pass"),
    (prints_only_in_the_cli, SHELL, "print(1)"),
    (makes_channels_in_one_place, SHELL, "from grpc import aio\nx = aio.insecure_channel('a')"),
    (makes_channels_in_one_place, TEST, "from grpc.aio import secure_channel"),
    (never_sleeps_in_tests, TEST, "import time\ntime.sleep(0.1)"),
    (never_sleeps_in_tests, TEST, "async def f():\n    await asyncio.sleep(1)"),
    (mocks_nothing, TEST, "from unittest.mock import Mock"),
    (explains_its_exceptions, SHELL, "x = 1  # noqa"),
    (explains_its_exceptions, SHELL, "x = 1  # noqa: E501"),
    (explains_its_exceptions, SHELL, "x = 1  # type: ignore"),
    (explains_its_exceptions, SHELL, "x = 1  # type: ignore[arg-type]"),
    (is_short, SHELL, "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX),
    (is_short, SHELL, "x = 1\n" * (MODULE_LINES_MAX + 1)),
]


@pytest.mark.parametrize(("rule", "name", "source"), BROKEN)
def test_the_rule_finds_what_breaks_it(rule: Rule, name: str, source: str) -> None:
    """A rule that cannot fail guards nothing."""
    assert rule(parse(name, source))


KEPT: list[tuple[str, str]] = [
    (MM, f"{PURE}import random\nfrom collections.abc import Iterator\ndef f(chance: random.Random) -> None: ..."),
    (MM, f"{PURE}from swaptier_wire.types import LoadMode\nfrom swaptier_client.mm.effects import Load"),
    (EXPLORE, f"{PURE}from swaptier_server.tier.area import Area\nfrom swaptier_client.mm.effects import Load"),
    (SHELL, '"""A module that touches the network."""\nimport asyncio\nimport grpc\nfrom swaptier_wire import status'),
    (SHELL, '"""A module."""\nx = f()  # noqa: S104 - recognised here, not bound to'),
    (SHELL, '"""A module."""\nx = f()  # type: ignore[arg-type]  # the library left its types out'),
    ("swaptier_loadgen.cli.app", '"""A command."""\nprint(1)'),
    (TEST, '"""Tests."""\nasync def test_a_load_is_a_load():\n    """It is."""\n    await asyncio.sleep(0)'),
]


@pytest.mark.parametrize(("name", "source"), KEPT)
def test_the_rules_find_nothing_where_nothing_is_wrong(name: str, source: str) -> None:
    """A rule that cries without cause is soon switched off."""
    assert {rule.__name__: rule(parse(name, source)) for rule in RULES if rule(parse(name, source))} == {}


def test_a_circle_of_imports_is_found() -> None:
    """Also when one of them hides its import in a function, or from all but the type checker."""
    first, second = "swaptier_client.mm.fault", "swaptier_client.mm.reclaim"
    modules = {
        first: parse(first, f"import {second}"),
        second: parse(second, f"def f():\n    import {first}"),
    }
    assert set(import_cycle(modules)) == {first, second}
    modules[second] = parse(second, f"if TYPE_CHECKING:\n    import {first}")
    assert set(import_cycle(modules)) == {first, second}
    modules[second] = parse(second, "import swaptier_wire.types")
    assert not import_cycle(modules)


def test_a_circle_of_rooms_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever adds an arrow to the table is held to its direction."""
    monkeypatch.setitem(ROOMS, "swaptier_client", {"": ("mm",), "mm": ("",)})
    assert set(cycle_of(ROOMS["swaptier_client"])) == {"", "mm"}


def test_a_crowded_folder_is_found(tmp_path: Path) -> None:
    """Its sub-folders are counted apart."""
    for number in range(FOLDER_MODULES_MAX):
        (tmp_path / f"module_{number}.py").touch()
    (tmp_path / "room").mkdir()
    (tmp_path / "room/module.py").touch()
    assert not crowded_folders(tmp_path)
    (tmp_path / "one_more.py").touch()
    assert crowded_folders(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "see /home/me/notes",
        "root = '/wo" + "rk/main'",
        "open('/t" + "mp/w/spec')",
        "https://pypi.org/simple",
        "pip install --extra-index-url x",
        "pip install --find-links wheels",
        "files.pythonhosted.org",
    ],
)
def test_a_machines_path_or_an_index_is_found(text: str) -> None:
    """In whatever file it stands."""
    assert foreign_words(text)


def test_the_sources_were_found_at_all() -> None:
    """An empty list of modules keeps every rule."""
    names = {module.name for module in MODULES}
    assert {"swaptier_wire.types", "swaptier_client.mm.policy", "swaptier_server.tier.slot", "tests.test_tidy"} <= names
    assert not any(name.startswith("swaptier.") for name in names)
