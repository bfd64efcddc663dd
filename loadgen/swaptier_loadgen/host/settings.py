"""What one host is asked to do. Each setting is declared here once: name, type, default, bounds, help and group.

Pure. A field is a flag of `race` and a variable; the record goes whole to the host processes and into the result.
"""

from typing import Annotated, Self

from cyclopts import Group, Parameter
from pydantic import AfterValidator, BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from swaptier_client.mm.counters import INJECTABLE, InstallFailure
from swaptier_client.mm.readahead import ReadaheadMode
from swaptier_loadgen.host.content import PROCESSES_MAX
from swaptier_loadgen.host.workload import THREADS_MAX, WorkloadKind
from swaptier_wire.suggestion import did_you_mean
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

DEFAULT_OPS = 30_000
"""Some five seconds for each policy on two cores."""

DEFAULT_INSTALL_FAILURE_RATE = 0.02
"""Some fifty failures for each policy, of which each takes a page along where the policy lets it."""

RESIDENT_SPARE_MIN = 1
"""Pages beyond one for each thread: every thread in a fault holds a folio that reclaim cannot have."""

SLOTS_PER_PAGE = 2
"""Swap is twice the pages, so that vm_swap_full() does not free the swapcache folios some policies keep."""

RUN = Group.create_ordered("What to run")
HOSTS = Group.create_ordered("Each host")
TIERS = Group.create_ordered("Tiers")
MISCHIEF = Group.create_ordered("What goes wrong on purpose")
RESULTS = Group.create_ordered("Results")


def flag(group: Group, text: str, name: str | None = None, metavar: str | None = None) -> Parameter:
    """Return a flag of the command line; its *name* is the field's unless given."""
    return Parameter(name=name, help=text, group=group, metavar=metavar, negative_iterable=())


def switch(group: Group, text: str, name: str | None = None) -> Parameter:
    """Return a flag without a value, off unless given."""
    return Parameter(name=name, help=text, group=group, negative=(), show_default=False)


def flag_of(name: str, field: FieldInfo) -> str:
    """Return the flag that the field *name* of a record of settings is given by."""
    names = [named.name for named in field.metadata if isinstance(named, Parameter) and named.name]
    return str(next(iter(names[0]))) if names else f"--{name.replace('_', '-')}"


def split_list(given: object) -> tuple[str, ...]:
    """Return the texts of a list that may be separated by commas, or given again and again; empty ones too."""
    texts = [given] if isinstance(given, str) else given
    assert isinstance(texts, list | tuple), "the command line gives texts"
    return tuple(part.strip() for text in texts for part in text.split(","))


def split_rate(text: str) -> tuple[InstallFailure, float]:
    """Return the cause and the rate of CAUSE=RATE.

    Raises:
        ValueError: it is none, or the cause cannot be injected.
    """
    cause, _, rate = text.partition("=")
    cause = cause.strip().replace("-", "_")
    if cause not in map(str, INJECTABLE):
        raise ValueError(
            f"{cause!r} is no cause that can be injected{did_you_mean(cause, INJECTABLE)}. "
            f"Causes: {', '.join(INJECTABLE)}"
        )
    try:
        share = float(rate)
    except ValueError:
        raise ValueError(f"{text!r} is not CAUSE=RATE, as in {cause}=0.01") from None
    if not 0 <= share < 1:
        raise ValueError(f"{text} is not within 0 and 1: at 1 no fault would end")
    return InstallFailure(cause), share


def _check_rates(texts: tuple[str, ...]) -> tuple[str, ...]:
    causes = [split_rate(text)[0] for text in texts]
    for cause in causes:
        if causes.count(cause) > 1:
            raise ValueError(f"gives {cause} twice")
    return texts


def _default_rate(given: dict[str, object]) -> float:
    return 0.0 if given.get("install_failures") else DEFAULT_INSTALL_FAILURE_RATE


def _default_ops(given: dict[str, object]) -> int | None:
    return DEFAULT_OPS if given.get("duration_seconds") is None else None


class HostSettings(BaseModel):
    """The same for every host of a race.

    `pages` and `resident` are per host and shared by its processes; `ops` is per policy and shared by all threads of
    all hosts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    duration_seconds: Annotated[
        float | None,
        flag(
            RUN,
            "Seconds of accesses per policy, instead of --ops. Writing every page before them and reading every page "
            "back at the end take their time besides, with --fault more of it.",
            "--duration",
        ),
        Field(gt=0, le=DURATION_SECONDS_MAX),
    ] = None
    ops: Annotated[
        int | None,
        flag(RUN, f"Accesses per policy, all threads together; {DEFAULT_OPS} without --duration."),
        Field(ge=1, le=OPS_MAX),
    ] = Field(default_factory=_default_ops)
    """Exactly one of ops and duration is given."""
    seed: Annotated[int, flag(RUN, "Of accesses, page contents, injected failures and preemptions.")] = 1
    workload: Annotated[
        WorkloadKind,
        flag(
            RUN,
            "What the emulated threads do. random: they read and write. forks: besides, processes fork, exit and move "
            "pages. stress-race: all add one to every page while everything is paged out, as the kernel's swap race "
            "stress. two-hosts: each host gets a clone that uses the same area.",
            metavar="NAME",
        ),
    ] = WorkloadKind.RANDOM
    read_share: Annotated[
        float | None,
        flag(RUN, "Share of the accesses that read, 0 to 1; else what the workload has, 39 % in random."),
        Field(ge=0, le=1),
    ] = None

    processes: Annotated[int, flag(HOSTS, "Emulated processes of each host."), Field(ge=1, le=PROCESSES_MAX - 1)] = 2
    threads: Annotated[int, flag(HOSTS, "Emulated threads of each process."), Field(ge=1, le=THREADS_MAX)] = 8
    pages: Annotated[
        int, flag(HOSTS, "Pages of each host, shared evenly by its processes."), Field(ge=1, le=PAGES_MAX)
    ] = 512
    resident: Annotated[int, flag(HOSTS, "Pages each host may hold uncompressed.")] = 96
    readahead: Annotated[
        ReadaheadMode,
        flag(
            HOSTS,
            "Which neighbours are read along through the swapcache: by swapoff, and by a fault on a page that fork "
            "shares, except under no-bypass, whose kernel reads nothing ahead on a synchronous device.",
            metavar="NAME",
        ),
    ] = ReadaheadMode.NONE
    zeromap: Annotated[
        bool, switch(HOSTS, "Keep pages of zeros in the host's swap map, as since 6.12, and never store them.")
    ] = False
    swapoff: Annotated[
        bool,
        switch(
            HOSTS, "End with swapoff: bring every page back, and leave nothing in the tier while all processes live on."
        ),
    ] = False
    require_generation: Annotated[
        bool,
        switch(
            HOSTS,
            "Have every policy ask for the generation it stored: a page that is gone is told lost, never read as "
            "something else.",
        ),
    ] = False
    zswap_max: Annotated[
        ByteSize | None,
        flag(
            HOSTS,
            "Compressed bytes each host may have in a tier's pool, as in 2MiB; as memory.zswap.max; else no limit.",
            metavar="SIZE",
        ),
        Field(ge=0, le=ZSWAP_BYTES_MAX),
    ] = None
    zswap_writeback: Annotated[
        bool, flag(HOSTS, "Whether a tier may give a host's pages to its device, as memory.zswap.writeback.")
    ] = True

    install_failures: Annotated[
        tuple[str, ...],
        flag(
            MISCHIEF,
            f"Separated by commas, or again for each cause: {', '.join(map(str, INJECTABLE))}.",
            "--install-failure",
            metavar="CAUSE=RATE",
        ),
        Parameter(show_default=False),
        BeforeValidator(split_list),
        AfterValidator(_check_rates),
    ] = ()
    install_failure_rate: Annotated[
        float,
        flag(
            MISCHIEF,
            "Share of pages read whose mapping is made to fail once, their lock being held; "
            f"{DEFAULT_INSTALL_FAILURE_RATE} without --install-failure.",
        ),
        Field(ge=0, lt=1),
    ] = Field(default_factory=_default_rate)
    preemption_rate: Annotated[
        float,
        flag(MISCHIEF, "Share of unlocked points of a fault at which another thread gets the CPU."),
        Field(ge=0, le=1),
    ] = 0.1

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        """Refuse values that do not fit each other."""
        if (self.ops is None) == (self.duration_seconds is None):
            raise ValueError("--ops and --duration exclude each other: give one of them")
        if self.read_share is not None and self.workload is WorkloadKind.STRESS_RACE:
            raise ValueError("--read-share has no place in --workload stress-race: all its accesses add to a page")
        if self.threads_per_host > THREADS_PER_HOST_MAX:
            raise ValueError(
                f"--processes times --threads must be 1 to {THREADS_PER_HOST_MAX}, not {self.threads_per_host}"
            )
        if self.pages < self.processes:
            raise ValueError(f"--pages must be {self.processes} to {PAGES_MAX}, not {self.pages}: one for each process")
        least = self.threads_per_host + RESIDENT_SPARE_MIN
        if self.resident < least:
            raise ValueError(
                f"--resident {self.resident} is too small for {self.threads_per_host} threads on a host, which may "
                f"hold a page each while they fault: take {least} or more, or fewer threads"
            )
        if self.resident >= self.pages:
            raise ValueError(
                f"--resident {self.resident} holds all of a host's {self.pages} pages: nothing would ever be swapped; "
                "make --pages larger or --resident smaller"
            )
        if self.install_failure_rate and dict(self._rates_by_cause()).get(InstallFailure.LOCK_CONTENDED):
            raise ValueError(
                "--install-failure-rate is the rate of lock_contended, which --install-failure gives too: give one of "
                "them"
            )
        total = sum(self.install_failure_rates.values())
        if not total < 1:
            raise ValueError(f"the install failures come to a rate of {total:g} together: at 1 no fault would end")
        return self

    def _rates_by_cause(self) -> list[tuple[InstallFailure, float]]:
        return [split_rate(text) for text in self.install_failures]

    @property
    def install_failure_rates(self) -> dict[InstallFailure, float]:
        """The rate of each cause; lock_contended comes first, so that it fails what it fails alone."""
        others = dict(self._rates_by_cause())
        rate = others.pop(InstallFailure.LOCK_CONTENDED, 0.0)
        return {InstallFailure.LOCK_CONTENDED: self.install_failure_rate or rate, **others}

    @property
    def threads_per_host(self) -> int:
        """Emulated threads of one host."""
        return self.processes * self.threads

    @property
    def slots(self) -> int:
        """Swap slots of one host."""
        return SLOTS_PER_PAGE * self.pages

    @property
    def area_options(self) -> AreaOptions:
        """Quota and writeback of each host's areas; what a device does on read is the policy's."""
        return AreaOptions(pool_bytes_max=self.zswap_max, writeback=self.zswap_writeback)
