"""What the documents take from the code: each block between two comments of a page, and the text it must hold.

A page holds `<!-- generated: NAME ARGUMENT... -->`, the text, and `<!-- end -->`. `make docs` writes the text,
`test_generated.py` compares it. Touches source files, golden transcripts, and processes of our own commands.
"""

import ast
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path

import yaml
from cyclopts import App, Group
from cyclopts.argument import Argument
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests.house import OURS, PURE_FOLDERS, ROOMS

from swaptier_client.mm.policy import DEFAULT_POLICY, ERAS, POLICIES
from swaptier_loadgen.cli.app import app as loadgen
from swaptier_loadgen.explore.worlds import WORLDS
from swaptier_loadgen.faults.hazards import Hazard
from swaptier_loadgen.faults.spec import FAULTS, Faults
from swaptier_loadgen.race.metrics import LatestReports, RaceCollector
from swaptier_loadgen.race.settings import RaceSettings
from swaptier_server import cli as server

PROGRAMS: dict[str, App] = {"swaptier-loadgen": loadgen, "swaptier-server": server.app}
"""The command lines."""

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden"
BLOCK = re.compile(r"(<!-- generated: (?P<call>[^>]+) -->\n)(?P<text>.*?)(<!-- end -->)", re.DOTALL)

FAULT_EXAMPLES = (
    "drop-reply=0.01,delay=2ms..20ms,duplicate=0.01,reorder=0.01,disconnect=1/s,kill-server=every:5s,"
    "pause-server=every:7s:1s"
)
"""One of every kind: the table's examples."""

ANSWER_SECONDS = 20
"""How long a server may take to answer."""

SLOW = ("matrix",)
"""Blocks that take minutes: left as they are, unless they are asked for."""


def pages() -> list[Path]:
    """Return the documents that may hold blocks, as paths from the top of the repository."""
    return [
        Path("README.md"),
        Path("ARCHITECTURE.md"),
        *(path.relative_to(ROOT) for path in sorted((ROOT / "docs").glob("*.md"))),
    ]


def fill(text: str, *, with_slow: bool = False) -> str:
    """Return a page with every block as the code has it now."""

    def block(found: re.Match[str]) -> str:
        name, *arguments = found["call"].split()
        if name in SLOW and not with_slow:
            return found[0]
        return f"{found[1]}{BLOCKS[name](*arguments)}\n{found[4]}"

    return BLOCK.sub(block, text)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '&#124;') for cell in line)} |" for line in lines)


def attribute_docstrings(owner: type) -> dict[str, str]:
    """Return what the strings under the attributes of a class say, by attribute, in their order."""
    tree = ast.parse(inspect.getsource(owner))
    assert isinstance(tree.body[0], ast.ClassDef)
    body = tree.body[0].body
    said = {}
    for line, after in pairwise(body):
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
                said[line.targets[0].id] = inspect.cleandoc(after.value.value).replace("\n", " ")
            elif isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                said[line.target.id] = inspect.cleandoc(after.value.value).replace("\n", " ")
    return said


def policies() -> str:
    """Every policy: where it comes from, and what is known of it."""
    return table(
        ("policy", "where it comes from", "safe", "what is known of it"),
        (
            (
                f"`{policy.name}`{' (the default)' if policy is DEFAULT_POLICY else ''}",
                policy.origin,
                "yes" if policy.is_safe else "no",
                policy.effect,
            )
            for policy in POLICIES.values()
        ),
    )


def eras() -> str:
    """The policy of each kernel version."""
    return table(("`--era`", "policy"), ((f"`{era}`", f"`{policy.name}`") for era, policy in ERAS.items()))


def worlds() -> str:
    """Every world, its question and its bounds."""
    return table(
        ("world", "asks", "within"),
        (
            (
                f"`{name}`",
                world.question,
                ", ".join(
                    f"{bound.replace('_', ' ')} {value}" for bound, value in asdict(world.bounds).items() if value
                ),
            )
            for name, world in WORLDS.items()
        ),
    )


def schedule(policy: str, world: str) -> str:
    """The golden transcript of a known bug."""
    return _fenced((GOLDEN / f"{policy}.{world}.txt").read_text())


def answer(policy: str, world: str) -> str:
    """What `explore` prints for one cell, without the seconds it took."""
    output = _output("explore", "--world", world, "--policy", policy)
    return _fenced(re.sub(r", \d+\.\d+ s$", "", output, flags=re.MULTILINE))


def matrix() -> str:
    """Every policy in every world. Minutes."""
    return _output("explore", "--matrix").strip()


def faults() -> str:
    """Every kind of fault, an example, and what it does."""
    examples = dict(example.split("=") for example in FAULT_EXAMPLES.split(","))
    means = attribute_docstrings(Faults)
    assert len(means) == len(FAULTS) == len(examples), "a kind of fault without an example or a word"
    return table(
        ("fault", "means"),
        ((f"`{name}={examples[name]}`", meaning) for name, meaning in zip(FAULTS, means.values(), strict=True)),
    )


def hazards() -> str:
    """What can take a page."""
    means = attribute_docstrings(Hazard)
    return table(("hazard", "means"), ((f"`{hazard}`", means[hazard.name]) for hazard in Hazard))


def panels() -> str:
    """The rows of the dashboard and the panels in them."""
    dashboard = yaml.safe_load((ROOT / "deploy/grafana/dashboards/swaptier.json").read_text())
    rows: list[tuple[str, list[str]]] = [("at the top", [])]
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            rows.append((panel["title"], []))
        else:
            rows[-1][1].append(panel["title"])
    return table(("row", "panels"), ((title, "; ".join(names)) for title, names in rows))


def alerts() -> str:
    """Every alert, when it fires, and what to do."""
    rules = [
        rule
        for path in sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    return table(
        ("alert", "severity", "says"),
        (
            (
                f"`{rule['alert']}`",
                rule["labels"]["severity"],
                re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"*\1*", rule["annotations"]["summary"]),
            )
            for rule in rules
        ),
    )


def metrics(program: str) -> str:
    """Every metric that a program exposes of itself, under the name that a query uses."""
    exposition = {"swaptier-server": _exposed_by_a_server, "swaptier-loadgen": _exposed_by_a_race}[program]()
    suffixes = {"counter": "_total", "histogram": "_bucket"}
    return table(
        ("metric", "type", "is"),
        (
            (f"`{family.name}{suffixes.get(family.type, '')}`", family.type, family.documentation)
            for family in text_string_to_metric_families(exposition)
            if family.name.startswith(("swaptier_", "grpc_server_"))
        ),
    )


def _exposed_by_a_server() -> str:
    command = [sys.executable, "-m", "swaptier_server", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            address = json.loads(server.stdout.readline())["metrics"]
            with closing(HTTPConnection(address, timeout=ANSWER_SECONDS)) as connection:
                connection.request("GET", "/metrics")
                return connection.getresponse().read().decode()
        finally:
            server.terminate()


def _exposed_by_a_race() -> str:
    settings = RaceSettings()
    registry = CollectorRegistry()
    registry.register(RaceCollector(settings, LatestReports.of(settings)))
    return generate_latest(registry).decode()


def rooms() -> str:
    """The rooms of every package, what is in them, and what they may import."""
    rows = []
    for package, arrows in ROOMS.items():
        for room, below in arrows.items():
            name = f"{package}.{room}" if room else package
            says = OURS[name].docstring.partition("\n")[0]
            is_pure = name in PURE_FOLDERS
            rows.append((f"`{name}`", says, "yes" if is_pure else "", ", ".join(below)))
    return table(("room", "holds", "pure", "may import"), rows)


def flags(program: str, command: str) -> str:
    """Every flag of a command, in the groups of its help."""
    groups: dict[Group, list[tuple[str, str, str]]] = {}
    for argument in PROGRAMS[program][command].assemble_argument_collection():
        if argument.show and argument.names[0].startswith("--"):
            names = " ".join(f"`{name}`" for name in argument.names)
            row = (names, _default(argument), _meaning(argument))
            groups.setdefault(argument.parameter.group[0], []).append(row)
    in_order = sorted(groups.items(), key=lambda one: one[0].sort_key)
    return "\n\n".join(f"{one.name}:\n\n{table(('flag', 'default', 'means'), rows)}" for one, rows in in_order)


def _default(argument: Argument) -> str:
    default = argument.field_info.default
    if not argument.show_default or default is None or default is argument.field_info.empty:
        return ""
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"`{argument.show_default(default) if callable(argument.show_default) else default}`"


def _meaning(argument: Argument) -> str:
    choices = ", ".join(argument.get_choices() or ())
    return f"{argument.parameter.help} Choices: {choices}." if choices else str(argument.parameter.help)


def statuses(program: str, command: str) -> str:
    """Every exit status, as the end of a command's help says."""
    said = re.search(r"Exit status: (.+?)\.(?: |$)", " ".join(str(PROGRAMS[program][command].help_epilogue).split()))
    assert said
    return table(("status", "means"), (status.split(" ", 1) for status in said[1].split("; ")))


def _output(*arguments: str) -> str:
    """Return what the load generator prints."""
    command = [sys.executable, "-m", "swaptier_loadgen", *arguments]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


def _fenced(text: str) -> str:
    return f"```\n{text.rstrip()}\n```"


BLOCKS: dict[str, Callable[..., str]] = {
    function.__name__: function
    for function in (
        policies,
        eras,
        worlds,
        schedule,
        answer,
        matrix,
        faults,
        hazards,
        panels,
        alerts,
        metrics,
        rooms,
        flags,
        statuses,
    )
}
"""By the name that pages have for them."""
