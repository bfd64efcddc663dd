"""What can be configured: one record, each setting declared once with its type, default, bounds, help and group.

Touches nothing. A field is a flag of the command line and a variable `SWAPTIER_*`; the record is passed whole.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from cyclopts import Group, Parameter
from pydantic import BaseModel, ByteSize, ConfigDict, Field, PlainValidator, model_validator

from swaptier_server.logs import LogFormat
from swaptier_wire.addresses import Address
from swaptier_wire.command_line.sizes import size_text
from swaptier_wire.types import BATCH_SLOTS_MAX, PAGE_BYTES

ENV_PREFIX = "SWAPTIER_"

POOL_BYTES_MAX = 1 << 44
"""16 TiB: beyond any machine, so a size with the wrong unit is refused at once."""
AREAS_MAX = 1024
"""Areas are metric labels, about 45 series and 30 us of every scrape each."""
SLOTS_PER_AREA_MAX = 1 << 32
"""16 TiB of pages: what one Linux swap device can hold, and more."""
CALLS_MAX = 512
"""Streams and unary calls of all clients at once; more are refused, which beats an unbounded queue."""
TENANTS_MAX = 1024
"""Their shares must be worth something."""
TENANTS_UNSAID = 16
"""Where only certificates say who there is."""
MEMORY_DEVICE_BYTES_UNSAID = 1 << 30
"""Of --device memory; a file has what its file system has."""
ENTRY_BYTES_MEAN_MIN = 512
"""Pages in the pool may be shorter, but not all of them: each takes some 600 bytes besides."""
POOL_ENTRIES_MIN = 4096
"""So that a small pool is not bounded by its entries: 2.5 MB."""
LEASES_MAX = 65_536
"""Claims of all areas that were not acknowledged: some 40 MB."""
SECONDS_MAX = 7 * 86_400
"""A week: longer waits are typing errors."""

LISTENING = Group.create_ordered("Listening")
DEVICE = Group.create_ordered("Pool and device")
CALLERS = Group.create_ordered("Who may call")
LIMITS = Group.create_ordered("Limits")
LIFE = Group.create_ordered("Logs and the end")


def _metrics_address(given: str | None) -> Address | None:
    if given is None or given == "off":
        return None
    try:
        return Address.parse(given, allows_unix=False)
    except ValueError as error:
        raise ValueError(f"{error}; off serves no metrics") from None


class Size(ByteSize):
    """A number of bytes that can be written with a unit: 64MiB, 1.5GiB, 100000."""

    def __str__(self) -> str:
        return size_text(self)


class Device(str):
    """Where the areas' devices are: `memory`, or `sqlite:PATH`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return *text* as a device.

        Raises:
            ValueError: it is neither form.
        """
        if text != "memory" and not (text.startswith("sqlite:") and len(text) > len("sqlite:")):
            looks_like_a_file = "/" in text or "." in text
            hint = f" (did you mean sqlite:{text}?)" if looks_like_a_file and ":" not in text else ""
            raise ValueError(f"expected memory or sqlite:PATH, got {text!r}{hint}")
        return cls(text)

    @property
    def path(self) -> str | None:
        """Of the file; None for memory."""
        return None if self == "memory" else self.removeprefix("sqlite:")


def _flag(group: Group, metavar: str | None = None, *, shows_default: bool = True) -> Parameter:
    """Return what the command line needs to know of a field besides its name, type and description."""
    return Parameter(group=group, metavar=metavar, show_default=str if shows_default else False)


class ServerConfig(BaseModel):
    """Serve a remote swap tier: zswap's compressed pool and the swapfile behind it, over gRPC.

    When ready, prints one line of JSON to stdout: {"listening": ADDRESS, "metrics": ADDRESS or null, "epoch": N}.

    Logs go to stderr. SIGTERM or SIGINT drains and exits 0; a second one exits at once. Pages in memory are gone
    when the server stops; a drain writes them to --device sqlite:PATH first, where the next server finds them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: Annotated[Address, PlainValidator(Address.parse), _flag(LISTENING, "ADDRESS")] = Field(
        Address("127.0.0.1:50051"), description="where to serve gRPC: HOST:PORT (0: any free port) or unix:PATH"
    )
    metrics: Annotated[Address | None, PlainValidator(_metrics_address), _flag(LISTENING, "ADDRESS")] = Field(
        Address("127.0.0.1:9464"), description="where to serve Prometheus metrics: HOST:PORT, or off"
    )
    metrics_token: Annotated[Path | None, _flag(LISTENING, "FILE", shows_default=False)] = Field(
        None, description="tokens that let scrapers ask for metrics, lines as in --tokens; others get 401"
    )
    metrics_tls_cert: Annotated[Path | None, _flag(LISTENING, "FILE", shows_default=False)] = Field(
        None, description="certificate chain of the metrics port, PEM; it then speaks HTTPS"
    )
    metrics_tls_key: Annotated[Path | None, _flag(LISTENING, "FILE", shows_default=False)] = Field(
        None, description="its private key, PEM, not encrypted"
    )
    metrics_tls_client_ca: Annotated[Path | None, _flag(LISTENING, "FILE", shows_default=False)] = Field(
        None, description="authorities, PEM; every scraper then needs a certificate of one of them"
    )
    insecure: Annotated[bool, _flag(LISTENING, shows_default=False)] = Field(
        False,
        description="serve beyond this machine although anyone there could read and replace pages, and read metrics",
    )
    pool_limit: Annotated[Size, _flag(DEVICE, "SIZE")] = Field(
        Size(64 << 20),
        ge=0,
        le=POOL_BYTES_MAX,
        description="compressed bytes the pool may hold, as in 64MiB; pages it refuses go to the areas' devices",
    )
    accept_threshold_percent: Annotated[int, _flag(DEVICE, "PERCENT")] = Field(
        90, ge=1, le=100, description="a pool that reached its limit accepts again below this part of it"
    )
    keep_incompressible: Annotated[bool, _flag(DEVICE, shows_default=False)] = Field(
        True, description="keep pages that do not compress in the pool as they are; --no-... sends them to the device"
    )
    device: Annotated[Device, PlainValidator(Device.parse), _flag(DEVICE, "DEVICE")] = Field(
        Device("memory"),
        description="where pages go that the pool refuses or gives up: memory, or sqlite:PATH, which outlives this "
        "process",
    )
    device_limit: Annotated[Size | None, _flag(DEVICE, "SIZE", shows_default=False)] = Field(
        None,
        ge=0,
        le=POOL_BYTES_MAX,
        description="pages that the devices may have, current or not, as in 1GiB, each counted whole; without it, 1GiB "
        "in memory, and of a file what its file system has",
    )
    durability: Annotated[Literal["memory", "write-through"], _flag(DEVICE)] = Field(
        "memory",
        description="a store is acknowledged when the pool has the page (memory), or when --device has it too "
        "(write-through)",
    )
    survive_power_loss: Annotated[bool, _flag(DEVICE, shows_default=False)] = Field(
        False,
        description="sync --device with every batch, so that what it was given survives a loss of power too, and not "
        "only the end of this process; many times slower",
    )
    lease_seconds: Annotated[float, _flag(DEVICE, "SECONDS")] = Field(
        10, gt=0, le=SECONDS_MAX, allow_inf_nan=False, description="how long a claimed page waits to be acknowledged"
    )
    tls_cert: Annotated[Path | None, _flag(CALLERS, "FILE", shows_default=False)] = Field(
        None, description="certificate chain of this server, PEM; turns TLS on"
    )
    tls_key: Annotated[Path | None, _flag(CALLERS, "FILE", shows_default=False)] = Field(
        None, description="its private key, PEM, not encrypted"
    )
    tls_client_ca: Annotated[Path | None, _flag(CALLERS, "FILE", shows_default=False)] = Field(
        None, description="authorities, PEM; every client then needs a certificate of one of them"
    )
    tokens: Annotated[Path | None, _flag(CALLERS, "FILE", shows_default=False)] = Field(
        None, description="tokens that let clients in, a line NAME:SHA256 each; see swaptier-server hash-token"
    )
    areas_max: Annotated[int, _flag(LIMITS, "NUMBER")] = Field(64, ge=1, le=AREAS_MAX, description="areas open at once")
    slots_per_area_max: Annotated[int, _flag(LIMITS, "NUMBER")] = Field(
        1 << 20, ge=1, le=SLOTS_PER_AREA_MAX, description="slots of the largest area"
    )
    slots_max: Annotated[int, _flag(LIMITS, "NUMBER")] = Field(
        16 << 20, ge=1, le=SLOTS_PER_AREA_MAX, description="slots of all areas together; each may cost 36 bytes"
    )
    batch_slots_max: Annotated[int, _flag(LIMITS, "NUMBER")] = Field(
        BATCH_SLOTS_MAX,
        ge=1,
        le=BATCH_SLOTS_MAX,
        description="slots of the largest message; their pages and 64 KiB are its bytes",
    )
    tenants_max: Annotated[int | None, _flag(LIMITS, "NUMBER", shows_default=False)] = Field(
        None,
        ge=1,
        le=TENANTS_MAX,
        description="tenants that half of every bound is divided among, as shares that are reserved for them; as many "
        "as --tokens names at least; without it, those, or 16",
    )
    tenant_areas_max: Annotated[int, _flag(LIMITS, "NUMBER")] = Field(
        16, ge=1, le=AREAS_MAX, description="areas that one tenant may have open"
    )
    tenant_slots_max: Annotated[int, _flag(LIMITS, "NUMBER")] = Field(
        4 << 20, ge=1, le=SLOTS_PER_AREA_MAX, description="slots of all areas of one tenant together"
    )
    tenant_pool_limit: Annotated[Size | None, _flag(LIMITS, "SIZE", shows_default=False)] = Field(
        None,
        ge=0,
        le=POOL_BYTES_MAX,
        description="compressed bytes that the areas of one tenant may take of the pool together; each then needs a "
        "quota of its own, pool_bytes_max at Swapon",
    )
    tenant_requests_max: Annotated[int, _flag(LIMITS, "NUMBER")] = Field(
        64, ge=1, le=CALLS_MAX, description="requests outside streams that one tenant may have in flight"
    )
    tenant_streams_max: Annotated[int, _flag(LIMITS, "NUMBER")] = Field(
        32,
        ge=1,
        le=CALLS_MAX,
        description="streams that one tenant may have open; one whose answers nobody reads costs 2 MB",
    )
    area_idle_seconds: Annotated[float, _flag(LIMITS, "SECONDS")] = Field(
        300,
        ge=0,
        le=SECONDS_MAX,
        allow_inf_nan=False,
        description="forget a client's areas after so long without stream or request; 0: never",
    )
    drain_seconds: Annotated[float, _flag(LIFE, "SECONDS")] = Field(
        10, ge=0, le=SECONDS_MAX, allow_inf_nan=False, description="on SIGTERM, how long to wait for requests in flight"
    )
    log_format: Annotated[LogFormat, _flag(LIFE)] = Field("auto", description="auto: console on a terminal, else json")
    log_level: Annotated[Literal["debug", "info", "warning", "error"], _flag(LIFE)] = Field(
        "info", description="least important level shown"
    )

    @property
    def tls_files(self) -> tuple[Path, Path, Path | None] | None:
        """Certificate, key and the clients' authorities; None without TLS."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return self.tls_cert, self.tls_key, self.tls_client_ca

    @property
    def metrics_tls_files(self) -> tuple[Path, Path, Path | None] | None:
        """Certificate, key and the scrapers' authorities; None for plain HTTP."""
        if self.metrics_tls_cert is None or self.metrics_tls_key is None:
            return None
        return self.metrics_tls_cert, self.metrics_tls_key, self.metrics_tls_client_ca

    @property
    def device_pages_max(self) -> int | None:
        """Pages that the devices may have; None when their file system bounds them."""
        if self.device_limit is not None:
            return self.device_limit // PAGE_BYTES
        return MEMORY_DEVICE_BYTES_UNSAID // PAGE_BYTES if self.device.path is None else None

    @property
    def pool_entries_max(self) -> int:
        """Pages that the pool may have, besides those that take no bytes."""
        return max(POOL_ENTRIES_MIN, self.pool_limit // ENTRY_BYTES_MEAN_MIN)

    @property
    def knows_tenants(self) -> bool:
        """The server asks who calls."""
        return self.tokens is not None or self.tls_client_ca is not None

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        """Refuse values that do not fit each other."""
        _check_tls("--tls", self.tls_cert, self.tls_key, self.tls_client_ca)
        _check_tls("--metrics-tls", self.metrics_tls_cert, self.metrics_tls_key, self.metrics_tls_client_ca)
        self._check_metrics()
        if not self.knows_tenants:
            for field in sorted(self.model_fields_set):
                if field.startswith("tenant"):
                    raise ValueError(f"{flag(field)} needs --tokens or --tls-client-ca: without either nobody is known")
        if self.device_limit is not None and 0 < self.device_limit < PAGE_BYTES:
            raise ValueError(f"--device-limit must be 0, which is no page, or at least a page, {PAGE_BYTES}")
        if self.durability == "write-through" and self.device.path is None:
            raise ValueError(
                "--durability write-through needs --device sqlite:PATH: memory does not outlive the server"
            )
        if self.survive_power_loss and self.device.path is None:
            raise ValueError("--survive-power-loss needs --device sqlite:PATH: memory does not outlive the server")
        if not self.listen.is_local and not self.insecure:
            missing = " and ".join(
                what
                for what, is_missing in (
                    ("--tls-cert with --tls-key", self.tls_cert is None),
                    ("--tokens or --tls-client-ca", not self.knows_tenants),
                )
                if is_missing
            )
            if missing:
                raise ValueError(
                    f"--listen {self.listen} can be reached from other machines, where anyone could read and replace "
                    f"pages, which are memory of other programs: give {missing}, or listen on 127.0.0.1 or unix:PATH, "
                    "or say --insecure if the network is private"
                )
        return self

    def _check_metrics(self) -> None:
        """Refuse to tell strangers what is meant for some."""
        if self.metrics is None:
            for field in sorted(self.model_fields_set):
                if field.startswith("metrics_"):
                    raise ValueError(f"{flag(field)} needs --metrics: there is no port to ask")
            return
        is_for_some = self.metrics_token is not None or self.metrics_tls_client_ca is not None
        is_secured = self.knows_tenants or self.tls_cert is not None
        if is_secured and not (self.metrics.is_local or is_for_some or self.insecure):
            raise ValueError(
                f"--metrics {self.metrics} can be reached from other machines, and names the tenants and areas of this "
                "server to anyone there: give --metrics-token, or --metrics-tls-cert, --metrics-tls-key and "
                "--metrics-tls-client-ca, or listen on 127.0.0.1, or say --insecure if the network is private"
            )


def _check_tls(prefix: str, cert: Path | None, key: Path | None, client_ca: Path | None) -> None:
    """Refuse half of what TLS needs."""
    if (cert is None) != (key is None):
        given, missing = ("key", "cert") if cert is None else ("cert", "key")
        raise ValueError(f"{prefix}-{given} needs {prefix}-{missing}: a certificate and its key go together")
    if client_ca is not None and cert is None:
        raise ValueError(
            f"{prefix}-client-ca needs {prefix}-cert and {prefix}-key: without TLS there are no certificates"
        )


def flag(field: str) -> str:
    """Return the flag of a field."""
    return f"--{field.replace('_', '-')}"


def variable(field: str) -> str:
    """Return the variable of a field."""
    return f"{ENV_PREFIX}{field.upper()}"


def given_by(field: str, arguments: Sequence[str]) -> str | None:
    """Return the flag or the variable that gives *field* its value; None where it has its default."""
    if any(is_flag_of(field, argument) for argument in arguments):
        return flag(field)
    return variable(field) if variable(field) in os.environ else None


def is_flag_of(field: str, argument: str) -> bool:
    """Tell whether *argument* gives *field* its value."""
    negation = f"--no-{flag(field).removeprefix('--')}"
    return argument in {flag(field), negation} or argument.startswith(f"{flag(field)}=")
