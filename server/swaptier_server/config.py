"""What can be configured: one typed record, filled from flags, then `SWAPTIER_*` variables, then defaults.

Touches the command line and the environment, nothing else: no file, no socket. Every refusal is one line that names
the flag or the variable it came from; `__main__` prints it and exits with status 2.
"""

import inspect
import os
from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, Self

from pydantic import (
    BeforeValidator,
    ByteSize,
    Field,
    GetCoreSchemaHandler,
    PlainValidator,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema
from pydantic_settings import BaseSettings, CliApp, CliSettingsSource, SettingsConfigDict, SettingsError

from swaptier_server.errors import ConfigError
from swaptier_wire.addresses import Address
from swaptier_wire.suggestion import did_you_mean
from swaptier_wire.types import BATCH_SLOTS_MAX
from swaptier_wire.version import program_version

PROGRAM = "swaptier-server"
ENV_PREFIX = "SWAPTIER_"
LOADGEN_PREFIX = "SWAPTIER_LOADGEN_"
"""Of the load generator's variables, which looks after them itself."""

POOL_BYTES_MAX = 1 << 44
"""16 TiB: beyond any machine, so a size with the wrong unit is refused at once."""
AREAS_MAX = 1024
"""Areas are metric labels, about 45 series and 30 us of every scrape each."""
SLOTS_PER_AREA_MAX = 1 << 32
"""16 TiB of pages: what one Linux swap device can hold, and more."""
CALLS_MAX = 512
"""Streams and unary calls of all clients at once; more are refused, which beats an unbounded queue."""
SECONDS_MAX = 7 * 86_400
"""A week: longer waits are typing errors."""


def _file_name(text: str) -> str:
    if not text:
        raise ValueError("expected the name of a file, got nothing")
    return text


def _metrics_address(given: object) -> Address | None:
    if given is None or given == "off":
        return None
    try:
        return Address.parse(str(given), allows_unix=False)
    except ValueError as error:
        raise ValueError(f"{error}; off serves no metrics") from None


ListenAddress = Annotated[Address, PlainValidator(Address.parse)]
MetricsAddress = Annotated[Address | None, PlainValidator(_metrics_address)]
FileName = Annotated[Path, BeforeValidator(_file_name)]


class Size(ByteSize):
    """A number of bytes that can be written with a unit: 64MiB, 1.5GiB, 100000."""

    def __str__(self) -> str:
        return self.human_readable(separator="").replace(".0", "")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Any], handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate as any ByteSize, and say what one is if it is none."""
        return core_schema.no_info_wrap_validator_function(
            _size_or_what_one_is, super().__get_pydantic_core_schema__(source, handler)
        )


def _size_or_what_one_is(given: object, validate: core_schema.ValidatorFunctionWrapHandler) -> object:
    try:
        return validate(given)
    except ValidationError:
        raise ValueError(f"expected bytes, 0 or more, or a size as in 64MiB, 1.5GiB or 64MB, got {given!r}") from None


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

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate with `parse`."""
        return core_schema.no_info_after_validator_function(cls.parse, core_schema.str_schema())


class ServerConfig(BaseSettings):
    """Serve a remote swap tier: zswap's compressed pool and the swapfile behind it, over gRPC.

    When ready, prints one line of JSON to stdout: {"listening": ADDRESS, "metrics": ADDRESS or null, "epoch": N}.
    Logs go to stderr. SIGTERM or SIGINT drains and exits 0; a second one exits at once. Pages in memory are gone
    when the server stops; a drain writes them to --device sqlite:PATH first, where the next server finds them.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        cli_prog_name=PROGRAM,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_exit_on_error=False,
        cli_hide_none_type=True,
        cli_parse_none_str="not given",
        frozen=True,
        extra="forbid",
    )

    listen: ListenAddress = Field(
        Address("127.0.0.1:50051"), description="where to serve gRPC: HOST:PORT (0: any free port) or unix:PATH"
    )
    metrics: MetricsAddress = Field(
        Address("127.0.0.1:9464"), description="where to serve Prometheus metrics: HOST:PORT, or off"
    )
    pool_limit: Size = Field(
        Size(64 << 20),
        ge=0,
        le=POOL_BYTES_MAX,
        description="compressed bytes the pool may hold, as in 64MiB; pages it refuses go to the areas' devices, "
        "which this does not limit",
    )
    accept_threshold_percent: int = Field(
        90, ge=1, le=100, description="a pool that reached its limit accepts again below this part of it"
    )
    device: Device = Field(
        Device("memory"),
        description="where pages go that the pool refuses or gives up: memory, or sqlite:PATH, which outlives this "
        "process",
    )
    durability: Literal["memory", "write-through"] = Field(
        "memory",
        description="a store is acknowledged when the pool has the page (memory), or when --device has it too "
        "(write-through)",
    )
    survive_power_loss: bool = Field(
        False,
        description="sync --device with every batch, so that what it was given survives a loss of power too, and not "
        "only the end of this process; many times slower",
    )
    lease_seconds: float = Field(
        10, gt=0, le=SECONDS_MAX, allow_inf_nan=False, description="how long a claimed page waits to be acknowledged"
    )
    insecure: bool = Field(
        False, description="serve beyond this machine although anyone there could read and replace pages"
    )
    tls_cert: FileName | None = Field(None, description="certificate chain of this server, PEM; turns TLS on")
    tls_key: FileName | None = Field(None, description="its private key, PEM, not encrypted")
    tls_client_ca: FileName | None = Field(
        None, description="authorities, PEM; every client then needs a certificate of one of them"
    )
    tokens: FileName | None = Field(
        None, description="tokens that let clients in, a line NAME:SHA256 each; see --hash-token"
    )
    areas_max: int = Field(64, ge=1, le=AREAS_MAX, description="areas open at once")
    slots_per_area_max: int = Field(1 << 20, ge=1, le=SLOTS_PER_AREA_MAX, description="slots of the largest area")
    batch_slots_max: int = Field(
        BATCH_SLOTS_MAX,
        ge=1,
        le=BATCH_SLOTS_MAX,
        description="slots of the largest message; their pages and 64 KiB are its bytes",
    )
    tenant_areas_max: int = Field(16, ge=1, le=AREAS_MAX, description="areas that one tenant may have open")
    tenant_slots_max: int = Field(
        4 << 20, ge=1, le=SLOTS_PER_AREA_MAX, description="slots of all areas of one tenant together"
    )
    tenant_pool_limit: Size | None = Field(
        None,
        ge=0,
        le=POOL_BYTES_MAX,
        description="compressed bytes that the areas of one tenant may take of the pool together; each then needs a "
        "quota of its own, pool_bytes_max at Swapon",
    )
    tenant_requests_max: int = Field(
        64, ge=1, le=CALLS_MAX, description="requests outside streams that one tenant may have in flight"
    )
    tenant_streams_max: int = Field(
        32,
        ge=1,
        le=CALLS_MAX,
        description="streams that one tenant may have open; one whose answers nobody reads costs 2 MB",
    )
    keep_incompressible: bool = Field(
        True, description="keep pages that do not compress in the pool as they are; --no-... sends them to the device"
    )
    area_idle_seconds: float = Field(
        300,
        ge=0,
        le=SECONDS_MAX,
        allow_inf_nan=False,
        description="forget a client's areas after so long without stream or request; 0: never",
    )
    drain_seconds: float = Field(
        10, ge=0, le=SECONDS_MAX, allow_inf_nan=False, description="on SIGTERM, how long to wait for requests in flight"
    )
    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else json")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least important level shown")

    @property
    def tls_files(self) -> tuple[Path, Path, Path | None] | None:
        """Certificate, key and the clients' authorities; None without TLS."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return self.tls_cert, self.tls_key, self.tls_client_ca

    @property
    def knows_tenants(self) -> bool:
        """The server asks who calls."""
        return self.tokens is not None or self.tls_client_ca is not None

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        """Refuse values that do not fit each other."""
        if (self.tls_cert is None) != (self.tls_key is None):
            given, missing = ("--tls-key", "--tls-cert") if self.tls_cert is None else ("--tls-cert", "--tls-key")
            raise ValueError(f"{given} needs {missing}: a certificate and its key go together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("--tls-client-ca needs --tls-cert and --tls-key: without TLS there are no certificates")
        if not self.knows_tenants:
            for field in sorted(self.model_fields_set):
                if field.startswith("tenant_"):
                    raise ValueError(f"{flag(field)} needs --tokens or --tls-client-ca: without either nobody is known")
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


class _Parser(ArgumentParser):
    """An argument parser that raises instead of exiting."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise SettingsError(message)


def load_config(arguments: Sequence[str]) -> ServerConfig:
    """Return the configuration from *arguments* (without the program's name), the environment and the defaults.

    Raises:
        ConfigError: something cannot be used; names the flag or variable.
        SystemExit: status 0, after --help or --version.
    """
    parser = _Parser(
        prog=PROGRAM,
        description=inspect.getdoc(ServerConfig),
        epilog=f"Every flag can be given as a variable, as in {ENV_PREFIX}POOL_LIMIT=64MiB; the flag wins.",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {program_version()}")
    _add_errands(parser)
    try:
        source = CliSettingsSource[ArgumentParser](ServerConfig, root_parser=parser)
        return CliApp.run(ServerConfig, cli_args=list(arguments), cli_settings_source=source)
    except ValidationError as error:
        raise ConfigError(_explain(error, arguments)) from None
    except SettingsError as error:
        raise ConfigError(f"{_suggest(str(error))}; see {PROGRAM} --help") from None


_ERRANDS = ("--check-config", "--hash-token")


class Errand(NamedTuple):
    """What else than serving the command line asks for."""

    is_check: bool = False
    """Tell the effective configuration and whether it can be used."""
    hash_token_of: str | None = None
    """Read a token from standard input, and tell the line that lets it in as this tenant."""


def split_errand(arguments: Sequence[str]) -> tuple[Errand, list[str]]:
    """Return what *arguments* ask for besides the configuration, and the rest of them.

    Raises:
        ConfigError: an errand lacks its value.
    """
    parser = _Parser(prog=PROGRAM, add_help=False, allow_abbrev=False)
    _add_errands(parser)
    try:
        found, rest = parser.parse_known_args(list(arguments))
    except SettingsError as error:
        raise ConfigError(f"{error}; see {PROGRAM} --help") from None
    return Errand(getattr(found, "check_config", False), getattr(found, "hash_token", None)), rest


def _add_errands(parser: ArgumentParser) -> None:
    """Let *parser* know, and its help show, what `split_errand` takes."""
    parser.add_argument(
        "--check-config",
        action="store_true",
        default=SUPPRESS,
        help="tell every value and where it came from, check files and addresses, and exit: 0 fine, 2 not",
    )
    parser.add_argument(
        "--hash-token",
        metavar="NAME",
        default=SUPPRESS,
        help="read a token from standard input, write its line for --tokens that lets it in as tenant NAME, and exit",
    )


def unknown_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the `SWAPTIER_*` variables that this program does not know, with a likely meant one if there is.

    Not an error: other programs of the family share the prefix. The load generator's are none of ours.
    """
    known = [variable(name) for name in ServerConfig.model_fields]
    unknown = []
    for name in sorted(os.environ if environ is None else environ):
        is_ours = name.upper().startswith(ENV_PREFIX) and not name.upper().startswith(LOADGEN_PREFIX)
        if is_ours and name.upper() not in known:
            unknown.append(f"{name}{did_you_mean(name.upper(), known)}")
    return unknown


def flag(field: str) -> str:
    """Return the flag of a field."""
    return f"--{field.replace('_', '-')}"


def variable(field: str) -> str:
    """Return the variable of a field."""
    return f"{ENV_PREFIX}{field.upper()}"


def is_flag_of(field: str, argument: str) -> bool:
    """Tell whether *argument* gives *field* its value."""
    negation = f"--no-{flag(field).removeprefix('--')}"
    return argument in {flag(field), negation} or argument.startswith(f"{flag(field)}=")


def _explain(error: ValidationError, arguments: Sequence[str]) -> str:
    """Return one line for the first thing *error* complains about."""
    first = error.errors()[0]
    what = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:  # of values that do not fit each other
        return what
    field = str(first["loc"][0])
    given = any(is_flag_of(field, argument) for argument in arguments)
    detail = what if "got" in what or first["type"] == "value_error" else f"{what}, got {first['input']!r}"
    return f"{flag(field) if given else variable(field)}: {detail}"


def _suggest(message: str) -> str:
    """Return argparse's *message*, with the flag that was probably meant."""
    message = message.removeprefix("error parsing CLI: ")
    _, found, rest = message.partition("unrecognized arguments: ")
    word = rest.split(maxsplit=1)[0].partition("=")[0] if rest else ""
    flags = [flag(name) for name in ServerConfig.model_fields]
    return f"{message}{did_you_mean(word, [*flags, *_ERRANDS])}" if found else message
