"""What the load generator and its host processes say to each other: one JSON document a line.

Pure. A host is given a `HostSpec` on its standard input and answers with `HostReport`s on its standard output: one
every REPORT_SECONDS while it runs, and a last one with `ended` set. A second line on its input, or its end, means stop.
"""

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from swaptier_loadgen.host.settings import HostSettings

REPORT_SECONDS = 0.5
"""Often enough for a scrape every second; a report costs a host about a millisecond."""

STALL_SECONDS_MAX = 60.0
"""A host that checks no page for so long hangs: a tier that does not answer ends its run well before.

A host that waits for a tier that is gone is given so much longer."""

LINE_BYTES_MAX = 1 << 20
"""A report is some 10 kB; the last one carries a latency histogram of up to 100 kB."""


LOSSES_MAX = 4096
"""In one report: some 100 bytes each. More go into further reports."""


class Target(NamedTuple):
    """A tier that a host has a swap device on."""

    address: str
    """HOST:PORT or unix:PATH."""
    priority: int
    """Of the swap device: higher ones are filled first, equal ones in turn."""


def parse_tiers(target: str) -> tuple[Target, ...]:
    """Return the tiers that *target* names, separated by commas, each perhaps with @PRIORITY; 0 without."""
    tiers = []
    for part in target.split(","):
        address, _, priority = part.rpartition("@")
        if address and priority.removeprefix("-").isdecimal():
            tiers.append(Target(address, int(priority)))
        else:
            tiers.append(Target(part, 0))
    return tuple(tiers)


def device_area(area: str, type_: int) -> str:
    """Return what the area of swap device *type_* of a host is called, whose first device has *area*."""
    return area if type_ == 0 else f"{area}.{type_}"


class HostSpec(BaseModel):
    """What one host process is to do: the settings of all hosts, and what is this one's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: HostSettings
    host: int
    policy: str
    target: str
    client_id: str
    client_epoch: int
    area: str
    slots: int
    """Of each swap device."""
    ops: int | None
    """This host's share of the accesses, shared by its threads."""
    corpus_files: tuple[str, ...] = ()
    deadline_seconds: float | None = None
    """For each answer of a tier; the stream's own without."""
    patience_seconds: float = 0.0
    """How long to wait for a tier that is gone; 0: its end is the host's."""
    security_files: dict[str, str] = Field(default_factory=dict)
    """Paths by the field of `Security` that they are for."""

    @property
    def survives_restarts(self) -> bool:
        """The host waits for a tier that ends and counts what it lost; otherwise its end is the host's."""
        return self.patience_seconds > 0

    @property
    def tiers(self) -> tuple[Target, ...]:
        """The tiers of *target*, one for each swap device."""
        return parse_tiers(self.target)

    def priority(self, type_: int) -> int:
        """Return the priority of a swap device."""
        return self.tiers[type_].priority
