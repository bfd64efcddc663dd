"""The flags of `swaptier-loadgen race`: name, type and help of each. Defaults stand where the command is defined.

Declares, and touches nothing. Every flag can also be given as a variable, VARIABLES and its name in capitals.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from typer.models import OptionInfo

from swaptier_client.connection import GIVE_UP_SECONDS
from swaptier_client.mm.counters import INJECTABLE
from swaptier_client.mm.policy import ERAS, POLICIES
from swaptier_loadgen.race.settings import DEFAULT_INSTALL_FAILURE_RATE, DEFAULT_OPS

VARIABLES = "SWAPTIER_LOADGEN_RACE_"
"""Prefix of the variables that stand for flags."""

PROGRAM_VARIABLES = "SWAPTIER_LOADGEN_"
"""Prefix of all variables of this program; whatever has it and stands for no flag is a mistake."""

_known_variables: list[str] = []


def _flag(flag: str, text: str, *, metavar: str | None = None) -> OptionInfo:
    """Return an option that a variable can set as well.

    A long *metavar*, as a list of choices is one, would leave no room for policy names in a help of 80 columns.
    """
    variable = _variable(flag)
    option: OptionInfo = typer.Option(flag, help=text, metavar=metavar, envvar=variable, show_envvar=False)
    return option


def _variable(flag: str) -> str:
    """Return the variable that stands for *flag*, known from now on."""
    variable = f"{VARIABLES}{flag.removeprefix('--').replace('-', '_').upper()}"
    _known_variables.append(variable)
    return variable


def unknown_variables(environ: Iterable[str]) -> list[str]:
    """Return the names in *environ* that have this program's prefix and stand for no flag, with a likely meant one."""
    unknown = []
    for name in sorted(environ):
        if name.startswith(PROGRAM_VARIABLES) and name not in _known_variables:
            close = difflib.get_close_matches(name, _known_variables, n=1)
            unknown.append(f"{name} (did you mean {close[0]}?)" if close else name)
    return unknown


Policy: TypeAlias = Annotated[
    str | None,
    _flag("--policy", f"Policies to race, separated by commas, or all, which is the default: {', '.join(POLICIES)}."),
]
Era: TypeAlias = Annotated[
    str | None, _flag("--era", f"Instead of --policy, the kernels whose policy to race: {', '.join(ERAS)}.")
]
Target: TypeAlias = Annotated[
    str | None,
    _flag(
        "--target",
        "Tier to race against, HOST:PORT or unix:PATH. Without it, starts its own. Several, as A,B@PRIORITY: each host "
        "swaps to all of them, to the highest priority first, to equal ones in turn.",
    ),
]
Servers: TypeAlias = Annotated[
    int, _flag("--servers", "Servers to start without --target; each host swaps to all of them in turn.")
]
RequireGeneration: TypeAlias = Annotated[
    bool,
    _flag(
        "--require-generation",
        "Have every policy ask for the generation it stored: a page that is gone is told lost, never read as "
        "something else.",
    ),
]
Fault: TypeAlias = Annotated[
    str | None,
    _flag(
        "--fault",
        "What goes wrong on purpose, separated by commas: drop-reply=0.01, delay=2ms..20ms, duplicate=0.01, "
        "reorder=0.01, disconnect=1/s, kill-server=every:5s, pause-server=every:7s:1s. Shares are of messages; the "
        "last two strike servers that the race starts.",
    ),
]
GiveUp: TypeAlias = Annotated[
    float | None,
    _flag(
        "--give-up",
        "Seconds that hosts wait for a tier that is gone, until its pages are lost to them. 0, the default without "
        f"--fault: the race ends with its tier; with it {GIVE_UP_SECONDS:g}.",
    ),
]
ZswapMax: TypeAlias = Annotated[
    str | None,
    _flag(
        "--zswap-max",
        "Compressed bytes each host may have in a tier's pool, as in 2MiB; as memory.zswap.max; else no limit.",
    ),
]
ZswapWriteback: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--zswap-writeback/--no-zswap-writeback",
        help="Whether a tier may give a host's pages to its device, as memory.zswap.writeback.",
        envvar=_variable("--zswap-writeback"),
        show_envvar=False,
    ),
]
PoolLimit: TypeAlias = Annotated[
    str | None, _flag("--pool-limit", "Of each server that the race starts, as in 2MiB; see swaptier-server --help.")
]
Device: TypeAlias = Annotated[
    str | None,
    _flag("--device", "Of each server that the race starts: memory, or sqlite:PATH, which outlives it."),
]
Durability: TypeAlias = Annotated[
    str | None,
    _flag(
        "--durability",
        "Of each server that the race starts: memory or write-through. Without --device, write-through goes to a file "
        "that is there for this race only.",
    ),
]
TlsCa: TypeAlias = Annotated[
    Path | None, _flag("--tls-ca", "Authorities, PEM, that may have issued the certificate of --target; turns TLS on.")
]
TlsCert: TypeAlias = Annotated[
    Path | None, _flag("--tls-cert", "Certificate of the hosts, PEM, for a server that asks for one.")
]
TlsKey: TypeAlias = Annotated[Path | None, _flag("--tls-key", "Its key, PEM, not encrypted.")]
TokenFile: TypeAlias = Annotated[
    Path | None, _flag("--token-file", "File with the token that lets the hosts in, and nothing else.")
]
Hosts: TypeAlias = Annotated[int, _flag("--hosts", "Emulated hosts, an OS process each.")]
Processes: TypeAlias = Annotated[int, _flag("--processes", "Emulated processes of each host.")]
Threads: TypeAlias = Annotated[int, _flag("--threads", "Emulated threads of each process.")]
Pages: TypeAlias = Annotated[int, _flag("--pages", "Pages of each host, shared evenly by its processes.")]
Resident: TypeAlias = Annotated[int, _flag("--resident", "Pages each host may hold uncompressed.")]
Ops: TypeAlias = Annotated[
    int | None, _flag("--ops", f"Accesses per policy, all threads together; {DEFAULT_OPS} without --duration.")
]
Duration: TypeAlias = Annotated[
    float | None,
    _flag(
        "--duration",
        "Seconds of accesses per policy, instead of --ops. Writing every page before them and reading every page back "
        "at the end take their time besides, with --fault more of it.",
    ),
]
Seed: TypeAlias = Annotated[int, _flag("--seed", "Of accesses, page contents, injected failures and preemptions.")]
Workload: TypeAlias = Annotated[
    str,
    _flag(
        "--workload",
        "What the emulated threads do. random: they read and write. forks: besides, processes fork, exit and move "
        "pages. stress-race: all add one to every page while everything is paged out, as the kernel's swap race "
        "stress. two-hosts: each host gets a clone that uses the same area.",
        metavar="<name>",
    ),
]
InstallFailureRate: TypeAlias = Annotated[
    float | None,
    _flag(
        "--install-failure-rate",
        "Share of pages read whose mapping is made to fail once, their lock being held; "
        f"{DEFAULT_INSTALL_FAILURE_RATE} without --install-failure.",
    ),
]
InstallFailure: TypeAlias = Annotated[
    list[str] | None,
    _flag(
        "--install-failure",
        f"CAUSE=RATE, again for each cause: {', '.join(map(str, INJECTABLE))}.",
        metavar="<str>",
    ),
]
Readahead: TypeAlias = Annotated[
    str,
    _flag(
        "--readahead",
        "Which neighbours a fault through the swapcache reads along: none, cluster or vma.",
        metavar="<name>",
    ),
]
Zeromap: TypeAlias = Annotated[
    bool, _flag("--zeromap", "Keep pages of zeros in the host's swap map, as since 6.12, and never store them.")
]
Swapoff: TypeAlias = Annotated[
    bool,
    _flag("--swapoff", "End with swapoff: bring every page back, and leave nothing in the tier while all still live."),
]
PreemptionRate: TypeAlias = Annotated[
    float,
    _flag("--preemption-rate", "Share of unlocked points of a fault at which another thread gets the CPU."),
]
Corpus: TypeAlias = Annotated[
    Path | None,
    _flag("--corpus", "File or folder to take page contents from; else the interpreter and its libraries."),
]
JsonFile: TypeAlias = Annotated[Path | None, _flag("--json", "Write the result to this file as JSON.")]
Metrics: TypeAlias = Annotated[str | None, _flag("--metrics", "Serve Prometheus metrics at HOST:PORT while racing.")]
Name: TypeAlias = Annotated[
    str, _flag("--name", "Of this race on a shared tier; the same name takes an older race's areas over.")
]
