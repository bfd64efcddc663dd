"""What a race can be asked to do. Each setting is declared once, here or in `HostSettings`.

Touches the files that --tls-* and --token-file name, to refuse them before anything starts. Every refusal is one line
that names the flag, says what is wrong with it and what would be right.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Self

from cyclopts import Parameter
from cyclopts.completion import CompletionContext
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from swaptier_client.connection import GIVE_UP_SECONDS
from swaptier_client.mm.policy import ERAS, POLICIES
from swaptier_client.security import PLAIN, Security, SecurityUnusable
from swaptier_loadgen.faults.spec import FaultProblem, Faults
from swaptier_loadgen.host.content import HOSTS_MAX
from swaptier_loadgen.host.messages import parse_tiers
from swaptier_loadgen.host.settings import (
    DURATION_SECONDS_MAX,
    HOSTS,
    MISCHIEF,
    RUN,
    TIERS,
    HostSettings,
    flag,
    split_list,
)
from swaptier_loadgen.host.workload import WorkloadKind
from swaptier_loadgen.race.server_flags import ServerFlags
from swaptier_wire.addresses import Address
from swaptier_wire.suggestion import did_you_mean

SWAP_DEVICES_MAX = 16
"""Tiers of one host. Models: MAX_SWAPFILES, which is some 30."""

DEFAULT_NAME = "race"
"""Of a race that has its tiers to itself."""

RACE_NAME_BYTES_MAX = 64
"""Leaves room for what the contract's 128 bytes of client id and area name need besides."""


def names_in(given: object, known: Mapping[str, object]) -> tuple[str, ...]:
    """Return the names of *known* that *given* lists, separated by commas; "all" is all.

    Raises:
        ValueError: a name is unknown, empty or given twice, or none is given.
    """
    names = split_list(given)
    choices = f"Choose from: {', '.join(known)}, or all"
    if not any(names):
        raise ValueError(f"names none. {choices}")
    for name in names:
        if not name:
            raise ValueError(f"there is nothing between two commas, or at an end: {','.join(names)!r}. {choices}")
        if name not in known and name != "all":
            raise ValueError(f"there is no {name!r}{did_you_mean(name, known)}. {choices}")
        if names.count(name) > 1:
            raise ValueError(f"gives {name} twice")
    if "all" in names and len(names) > 1:
        raise ValueError(f"gives all, and {names[names[0] == 'all']} besides: give one of them")
    return tuple(known) if names == ("all",) else names


def complete_list(known: Iterable[str]) -> Callable[[CompletionContext], list[str]]:
    """Return what completes a list in a shell: *known* after the last comma, without those that stand before it."""

    def complete(context: CompletionContext) -> list[str]:
        given, comma, _ = context.incomplete.rpartition(",")
        return [f"{given}{comma}{name}" for name in known if name not in given.split(",")]

    return complete


def _policies(given: object) -> tuple[str, ...]:
    return names_in(given, POLICIES)


def policies_of(eras: Sequence[str]) -> tuple[str, ...]:
    """Return the policies that kernels of the *eras* had, each once.

    Raises:
        ValueError: there is no such era.
    """
    return tuple(dict.fromkeys(ERAS[name].name for name in names_in(eras, ERAS)))


PolicyNames = Annotated[tuple[str, ...], BeforeValidator(_policies)]
"""Policies by name: on a command line separated by commas, or all."""


def _check_target(text: str) -> str:
    tiers = parse_tiers(text)
    for tier in tiers:
        Address.parse(tier.address)
    if len(tiers) > SWAP_DEVICES_MAX:
        raise ValueError(f"the number of tiers must be 1 to {SWAP_DEVICES_MAX}, not {len(tiers)}")
    return text


def _check_fault(text: str) -> str:
    try:
        return str(Faults.parse(text)) if text else text
    except FaultProblem as problem:
        raise ValueError(str(problem)) from None


def _check_name(name: str) -> str:
    if not 1 <= len(name.encode(errors="surrogateescape")) <= RACE_NAME_BYTES_MAX or not name.isprintable():
        raise ValueError(f"must be 1 to {RACE_NAME_BYTES_MAX} printable bytes, not {name!r}")
    return name


class RaceSettings(BaseModel):
    """One race: every policy on the same seed, the same accesses and the same page contents."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    policies: Annotated[
        PolicyNames,
        flag(
            RUN,
            f"Policies to race, separated by commas, or all, which is the default: {', '.join(POLICIES)}.",
            "--policy",
            metavar="NAMES",
        ),
        Parameter(show_default=False, completer=complete_list(["all", *POLICIES])),
    ] = tuple(POLICIES)
    hosts: Annotated[int, flag(HOSTS, "Emulated hosts, an OS process each."), Field(ge=1, le=HOSTS_MAX)] = 2
    host: Annotated[HostSettings, Parameter(name="*")] = Field(default_factory=HostSettings)
    corpus: Annotated[
        Path | None,
        flag(HOSTS, "File or folder to take page contents from; else the interpreter and its libraries."),
    ] = None
    target: Annotated[
        str | None,
        flag(
            TIERS,
            "Tier to race against, HOST:PORT or unix:PATH. Without it, starts its own. Several, as A,B@PRIORITY: each "
            "host swaps to all of them, to the highest priority first, to equal ones in turn.",
            metavar="ADDRESS",
        ),
        AfterValidator(lambda text: text if text is None else _check_target(text)),
    ] = None
    servers: Annotated[
        int,
        flag(TIERS, "Servers to start without --target; each host swaps to all of them in turn."),
        Field(ge=1, le=SWAP_DEVICES_MAX),
    ] = 1
    server_flags: Annotated[ServerFlags, Parameter(name="*")] = ServerFlags()
    tls_ca: Annotated[
        Path | None,
        flag(TIERS, "Authorities, PEM, that may have issued the certificate of --target; turns TLS on."),
    ] = None
    tls_cert: Annotated[Path | None, flag(TIERS, "Certificate of the hosts, PEM, for a server that asks for one.")] = (
        None
    )
    tls_key: Annotated[Path | None, flag(TIERS, "Its key, PEM, not encrypted.")] = None
    token_file: Annotated[Path | None, flag(TIERS, "File with the token that lets the hosts in, and nothing else.")] = (
        None
    )
    name: Annotated[
        str,
        flag(
            TIERS,
            "Of this race on the tiers of --target; without it, one that no other load generator has. The same name "
            "takes an older race's areas over, and ends it.",
        ),
        Parameter(show_default=False),
        AfterValidator(_check_name),
    ] = DEFAULT_NAME
    fault: Annotated[
        str,
        flag(
            MISCHIEF,
            "What goes wrong on purpose, separated by commas: drop-reply=0.01, delay=2ms..20ms, "
            "duplicate=0.01, reorder=0.01, disconnect=1/s, kill-server=every:5s, pause-server=every:7s:1s. Shares are "
            "of messages; the last two strike servers that the race starts.",
            metavar="FAULTS",
        ),
        Parameter(show_default=False),
        AfterValidator(_check_fault),
    ] = ""
    give_up_seconds: Annotated[
        float | None,
        flag(
            MISCHIEF,
            "Seconds that hosts wait for a tier that is gone, until its pages are lost to them. 0, the default without "
            f"--fault: the race ends with its tier; with it {GIVE_UP_SECONDS:g}.",
            "--give-up",
        ),
        Field(ge=0, le=DURATION_SECONDS_MAX),
    ] = None

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        """Refuse values that do not fit each other."""
        if self.host.workload is WorkloadKind.TWO_HOSTS and self.hosts > HOSTS_MAX // 2:
            raise ValueError(f"--hosts, each of which gets a twin, must be 1 to {HOSTS_MAX // 2}, not {self.hosts}")
        if self.fault and not self.patience_seconds:
            raise ValueError("--give-up 0 ends every host with the first connection that --fault breaks: give more")
        if self.server_flags.is_durable and not self.host.zswap_writeback:
            raise ValueError(
                "--no-zswap-writeback keeps pages off the device, --durability write-through puts all there"
            )
        try:
            security = self.security
            if self.target is None:
                if security != PLAIN:
                    raise ValueError("--tls-ca, --tls-cert, --tls-key and --token-file are for --target: give that too")
                return self
            for tier in parse_tiers(self.target):
                security.check(tier.address)
        except SecurityUnusable as problem:
            raise ValueError(str(problem)) from None
        if self.servers != 1:
            raise ValueError("--servers is how many servers to start, --target names some that run: give one of them")
        if self.server_flags:
            raise ValueError(
                "--pool-limit, --device and --durability are for a server that the race starts, --target names one "
                "that runs: give them to that one instead"
            )
        if self.faults.on_the_server:
            raise ValueError("--fault kill-server and pause-server strike servers that the race starts, not --target")
        return self

    @property
    def faults(self) -> Faults:
        """What goes wrong between hosts and tiers, and with our own servers."""
        return Faults.parse(self.fault) if self.fault else Faults()

    @property
    def security(self) -> Security:
        """How hosts show the tiers of *target* who they are.

        Raises:
            SecurityUnusable: the flags do not fit together; never after the settings were made.
        """
        return Security(self.tls_ca, self.tls_cert, self.tls_key, self.token_file)

    @property
    def patience_seconds(self) -> float:
        """How long hosts wait for a tier that is gone: with faults, until it is back."""
        if self.give_up_seconds is None:
            return GIVE_UP_SECONDS if self.fault else 0.0
        return self.give_up_seconds

    def document(self) -> dict[str, object]:
        """Return the settings as a result names them; which files hold secrets is not part of it."""
        secret = {"tls_ca", "tls_cert", "tls_key", "token_file"}
        race = self.model_dump(mode="json", exclude={"host", "fault", *secret})
        return {**race, "faults": self.fault, **self.host.model_dump(mode="json")}


def area_name(name: str, policy: str, host: int) -> str:
    """Return what the area of one host of one policy is called; *name* tells races on one tier apart."""
    return f"{policy}-{host}" if name == DEFAULT_NAME else f"{name}-{policy}-{host}"
