"""What a race can be asked to do, and what is refused before anything starts.

Asks whether a result file could be written, and touches nothing else. Every refusal is one line that names the flag,
says what is wrong with it and what would be right.
"""

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from swaptier_client.connection import GIVE_UP_SECONDS
from swaptier_client.mm.counters import InstallFailure
from swaptier_client.mm.policy import POLICIES
from swaptier_client.mm.readahead import ReadaheadMode
from swaptier_client.security import PLAIN, Security, SecurityUnusable
from swaptier_loadgen.faults.spec import NO_FAULTS, Faults
from swaptier_loadgen.host.content import HOSTS_MAX, PROCESSES_MAX
from swaptier_loadgen.host.messages import parse_tiers
from swaptier_loadgen.host.workload import THREADS_MAX, WorkloadKind
from swaptier_loadgen.race.server_flags import ServerFlags
from swaptier_wire.types import AreaOptions

THREADS_PER_HOST_MAX = 4096
"""Emulated threads of one host together."""

PAGES_MAX = 1 << 18
"""Pages of one host, 1 GiB: twice as many slots stay well below a server's default area limit."""

OPS_MAX = 10**10
"""Accesses of one policy: months. More is a typing error."""

DURATION_SECONDS_MAX = 7 * 86_400.0
"""A week for each policy."""

ZSWAP_BYTES_MAX = 1 << 44
"""Quota of one host, 16 TiB: beyond any pool. More is a wrong unit."""

SWAP_DEVICES_MAX = 16
"""Tiers of one host. Models: MAX_SWAPFILES, which is some 30."""

RACE_NAME_BYTES_MAX = 64
"""Leaves room for what the contract's 128 bytes of client id and area name need besides."""

DEFAULT_NAME = "race"

DEFAULT_OPS = 30_000
"""Some five seconds for each policy on two cores."""

RESIDENT_SPARE_MIN = 1
"""Pages beyond one for each thread: every thread in a fault holds a folio that reclaim cannot have."""

SLOTS_PER_PAGE = 2
"""Swap is twice the pages, so that vm_swap_full() does not free the swapcache folios some policies keep."""


DEFAULT_INSTALL_FAILURE_RATE = 0.02
"""Some fifty failures for each policy, of which each takes a page along where the policy lets it."""


class UsageProblem(Exception):
    """The race cannot be run as asked. One line; nothing was started."""


@dataclass(frozen=True, slots=True)
class RaceSettings:
    """One race: every policy on the same seed, the same accesses and the same page contents.

    `pages` and `resident` are per host and shared by its processes; `ops` is per policy and shared by all threads of
    all hosts.
    """

    policies: tuple[str, ...]
    target: str | None
    """HOST:PORT or unix:PATH; None starts our own server."""
    name: str
    """Prefix of client ids and areas: races with the same name take each other's areas over."""
    hosts: int
    processes: int
    threads: int
    """Of each process."""
    pages: int
    resident: int
    """Pages a host may hold uncompressed."""
    ops: int | None
    duration_seconds: float | None
    """Exactly one of ops and duration is given."""
    seed: int
    install_failure_rate: float
    preemption_rate: float
    corpus: Path | None
    workload: WorkloadKind = WorkloadKind.RANDOM
    install_failures: Mapping[str, float] = field(default_factory=dict)
    """Rate by cause, besides `install_failure_rate`, which is lock_contended's."""
    readahead: ReadaheadMode = ReadaheadMode.NONE
    zeromap: bool = False
    """Pages of zeros are noted on the host and never sent, as since 6.12."""

    servers: int = 1
    """Of our own, where no target is given: each host has a swap device on each of them."""
    swapoff: bool = False
    """A race ends with swapoff instead of the processes' exit."""
    require_generation: bool = False
    """Every policy's loads ask for the generation that was stored, or none."""
    faults: Faults = NO_FAULTS
    """What goes wrong between hosts and tiers, and with our own servers."""
    give_up_seconds: float | None = None
    """How long hosts wait for a tier that is gone; 0: its end is theirs. None is 0 without faults."""
    area_options: AreaOptions = field(default_factory=AreaOptions)
    """Quota and writeback of each host's areas; what a device does on read is the policy's."""
    server_flags: ServerFlags = field(default_factory=ServerFlags)
    """For servers of our own."""
    security: Security = PLAIN
    """For the tiers of *target*."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            UsageProblem: and why.
        """
        for name in self.policies:
            find_policy(name)
        check_range("--hosts", self.hosts, 1, HOSTS_MAX)
        check_range("--processes", self.processes, 1, PROCESSES_MAX - 1)
        check_range("--threads", self.threads, 1, THREADS_MAX)
        check_range("--processes times --threads", self.threads_per_host, 1, THREADS_PER_HOST_MAX)
        if self.workload is WorkloadKind.TWO_HOSTS:
            check_range("--hosts, each of which gets a twin,", self.hosts, 1, HOSTS_MAX // 2)
        check_range("--servers", self.servers, 1, SWAP_DEVICES_MAX)
        self._check_tiers()
        check_range("--pages", self.pages, self.processes, PAGES_MAX)
        least = self.threads_per_host + RESIDENT_SPARE_MIN
        if self.resident < least:
            raise UsageProblem(
                f"--resident {self.resident} is too small for {self.threads_per_host} threads on a host, which may "
                f"hold a page each while they fault: take {least} or more, or fewer threads"
            )
        if self.resident >= self.pages:
            raise UsageProblem(
                f"--resident {self.resident} holds all of a host's {self.pages} pages: nothing would ever be swapped; "
                "make --pages larger or --resident smaller"
            )
        if self.ops is not None:
            check_range("--ops", self.ops, 1, OPS_MAX)
        if self.duration_seconds is not None and not 0 < self.duration_seconds <= DURATION_SECONDS_MAX:
            raise UsageProblem(f"--duration {self.duration_seconds:g} is not within 0 and {DURATION_SECONDS_MAX:.0f} s")
        if (self.ops is None) == (self.duration_seconds is None):
            raise UsageProblem("--ops and --duration exclude each other: give one of them")
        if not 0 <= self.install_failure_rate < 1:
            raise UsageProblem(
                f"--install-failure-rate {self.install_failure_rate:g} is not within 0 and 1: at 1 no fault would end"
            )
        _check_install_failures(self.install_failures, self.install_failure_rate)
        if not 0 <= self.preemption_rate <= 1:
            raise UsageProblem(f"--preemption-rate {self.preemption_rate:g} is not within 0 and 1")
        if not 1 <= len(self.name.encode()) <= RACE_NAME_BYTES_MAX or not self.name.isprintable():
            raise UsageProblem(f"--name must be 1 to {RACE_NAME_BYTES_MAX} printable bytes, not {self.name!r}")

    def _check_tiers(self) -> None:
        """Refuse what does not fit the tiers.

        Raises:
            UsageProblem: and why.
        """
        if not 0 <= self.patience_seconds <= DURATION_SECONDS_MAX:
            raise UsageProblem(f"--give-up {self.patience_seconds:g} is not within 0 and {DURATION_SECONDS_MAX:.0f} s")
        if self.faults and not self.patience_seconds:
            raise UsageProblem("--give-up 0 ends every host with the first connection that --fault breaks: give more")
        quota = self.area_options.pool_bytes_max
        if quota is not None:
            check_range("--zswap-max", quota, 0, ZSWAP_BYTES_MAX)
        if self.server_flags.is_durable and not self.area_options.writeback:
            raise UsageProblem(
                "--no-zswap-writeback keeps pages off the device, --durability write-through puts all there"
            )
        if self.target is None:
            if self.security != PLAIN:
                raise UsageProblem("--tls-ca, --tls-cert, --tls-key and --token-file are for --target: give that too")
            return
        if self.servers != 1:
            raise UsageProblem("--servers is how many servers to start, --target names some that run: give one of them")
        if self.server_flags:
            raise UsageProblem(
                "--pool-limit, --device and --durability are for a server that the race starts, --target names one "
                "that runs: give them to that one instead"
            )
        if self.faults.on_the_server:
            raise UsageProblem("--fault kill-server and pause-server strike servers that the race starts, not --target")
        try:
            for tier in parse_tiers(self.target):
                self.security.check(tier.address)
        except SecurityUnusable as problem:
            raise UsageProblem(str(problem)) from None

    @property
    def patience_seconds(self) -> float:
        """How long hosts wait for a tier that is gone: with faults, until it is back."""
        if self.give_up_seconds is None:
            return GIVE_UP_SECONDS if self.faults else 0.0
        return self.give_up_seconds

    @property
    def threads_per_host(self) -> int:
        """Emulated threads of one host."""
        return self.processes * self.threads

    @property
    def slots(self) -> int:
        """Swap slots of one host."""
        return SLOTS_PER_PAGE * self.pages


def area_name(name: str, policy: str, host: int) -> str:
    """Return what the area of one host of one policy is called; *name* tells races on one tier apart."""
    return f"{policy}-{host}" if name == DEFAULT_NAME else f"{name}-{policy}-{host}"


def find_policy(name: str) -> str:
    """Return *name* if a policy is called so.

    Raises:
        UsageProblem: lists the policies and the most similar name.
    """
    if name in POLICIES:
        return name
    raise UsageProblem(
        f"--policy: there is no policy {name!r}{did_you_mean(name, POLICIES)} Policies: {', '.join(POLICIES)}, or all"
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return how a sentence about the unknown *name* ends: with the most similar of *known*, if one is."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else "."


def _check_install_failures(rates: Mapping[str, float], lock_contended_rate: float) -> None:
    for cause, rate in rates.items():
        if not 0 <= rate < 1:
            raise UsageProblem(f"--install-failure {cause}={rate:g} is not within 0 and 1: at 1 no fault would end")
    if lock_contended_rate and rates.get(InstallFailure.LOCK_CONTENDED):
        raise UsageProblem(
            "--install-failure-rate is the rate of lock_contended, which --install-failure gives too: give one of them"
        )
    total = lock_contended_rate + sum(rates.values())
    if not total < 1:
        raise UsageProblem(f"the install failures come to a rate of {total:g} together: at 1 no fault would end")


def check_range(flag: str, value: int, least: int, most: int) -> None:
    """Refuse a number that is not within *least* and *most*.

    Raises:
        UsageProblem: names the flag and both bounds.
    """
    if not least <= value <= most:
        raise UsageProblem(f"{flag} must be {least} to {most}, not {value}")


def check_writable(path: Path | None) -> None:
    """Refuse a result file, --json, that could not be written at the end.

    Raises:
        UsageProblem: why not.
    """
    if path is None:
        return
    if path.is_dir():
        raise UsageProblem(f"--json {path} is a folder, not a file")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise UsageProblem(f"--json {path} cannot be written: no such folder, or no permission")
