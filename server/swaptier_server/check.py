"""What `check-config` shows: every value with where it came from, and whether the files can be used.

Touches the environment, the files that the configuration names, and for a moment the ports it wants. Nothing is served
or made, and no secret is shown: of a token file the tenants' names, of a key its path.
"""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from swaptier_server.access.access import Access
from swaptier_server.access.scrapers import MetricsScrapers
from swaptier_server.access.tls import Tls
from swaptier_server.backing import open_swap_file
from swaptier_server.config import ServerConfig, flag, given_by
from swaptier_server.errors import ConfigError
from swaptier_server.listening import check_can_listen
from swaptier_server.memory import memory_lines, share_line
from swaptier_server.rpc.descriptors import connections_max
from swaptier_server.shares import tenants_expected
from swaptier_server.swapfile.medium import ROOM_BYTES, has_room
from swaptier_server.swapfile.place import SwapFileUnusable, check_new, is_folder_open
from swaptier_wire.descriptors import raise_limit


class Finding(NamedTuple):
    """One line of the answer."""

    text: str
    is_problem: bool = False


def effective_values(config: ServerConfig, arguments: Sequence[str]) -> Iterator[str]:
    """Yield a line for each field of *config*: its flag, its value, and where that came from."""
    width = max(len(flag(field)) for field in ServerConfig.model_fields)
    for field in ServerConfig.model_fields:
        source = given_by(field, arguments) or "default"
        source = "flag" if source == flag(field) else source
        yield f"{flag(field):<{width}}  {_text(field, getattr(config, field))}  ({source})"


def check_files(config: ServerConfig) -> Iterator[Finding]:
    """Yield what is found at the files and addresses of *config*."""
    for check in (
        _check_tls,
        _check_tokens,
        _check_scrapers,
        _check_pool,
        _check_device,
        _check_listen,
        _check_descriptors,
        _check_memory,
    ):
        yield from _findings(check, config)


def _check_descriptors(_config: ServerConfig) -> Iterator[Finding]:
    limit = raise_limit()
    yield Finding(f"descriptors: {limit}, for at most {connections_max()} connections of clients")


def _check_memory(config: ServerConfig) -> Iterator[Finding]:
    try:
        access = Access(config.tokens, asks_certificates=config.tls_client_ca is not None)
    except ConfigError:  # said of the tokens
        return
    raise_limit()
    tenants = tenants_expected(config, access)
    if tenants > 1:
        yield Finding(share_line(config, tenants))
    for line in memory_lines(config, tenants, connections_max()):
        yield Finding(line)


def _check_tls(config: ServerConfig) -> Iterator[Finding]:
    if config.tls_files is None:
        yield Finding("TLS: off")
        return
    material = Tls(*config.tls_files).material
    yield from _check_who_may(config.tls_files[1], "--tls-key", stat.S_IROTH, "read", "and with it pose as this server")
    yield Finding(f"TLS: certificate of {', '.join(material.names) or 'nobody'}, expires {material.expires:%Y-%m-%d}")
    if config.tls_client_ca is not None:
        yield Finding(f"client certificates: asked for, of {material.client_authorities} authorities")


def _check_tokens(config: ServerConfig) -> Iterator[Finding]:
    tokens = Access(config.tokens, asks_certificates=config.tls_client_ca is not None).tokens
    if tokens is None:
        yield Finding("tokens: not asked for")
    else:
        yield Finding(f"tokens: {len(tokens)}, of {', '.join(tokens.tenants)}")
        assert config.tokens is not None, "they were read"
        yield from _check_who_may(config.tokens, "--tokens", stat.S_IWOTH, "write", "and let anybody in")


def _check_scrapers(config: ServerConfig) -> Iterator[Finding]:
    if config.metrics is None:
        return
    scrapers = MetricsScrapers(config.metrics_token, config.metrics_tls_files)
    asked = [] if scrapers.tokens is None else [f"a token of {len(scrapers.tokens)}"]
    if config.metrics_tls_client_ca is not None:
        asked.append("a certificate")
    transport = "HTTP" if scrapers.security is None else "HTTPS"
    yield Finding(f"metrics: by {transport}, {' and '.join(asked) or 'nothing'} asked for")
    if scrapers.tokens is not None:
        assert config.metrics_token is not None, "it was read"
        yield from _check_who_may(config.metrics_token, "--metrics-token", stat.S_IWOTH, "write", "and let anybody ask")
        if scrapers.security is None and not config.metrics.is_local:
            yield Finding("--metrics-token: the network can read the token, as there is no --metrics-tls-cert")


def _check_who_may(path: Path, name: str, bit: int, do_what: str, so_that: str) -> Iterator[Finding]:
    """Yield a hint when every user of the machine may do something with the file that only the server's should."""
    if path.stat().st_mode & bit:
        yield Finding(f"{name}: every user of this machine may {do_what} {path}, {so_that}; see chmod")


def _check_pool(config: ServerConfig) -> Iterator[Finding]:
    if config.pool_limit == 0:
        yield Finding("pool: takes no page, as --pool-limit is 0; every page goes to the device")


def _check_device(config: ServerConfig) -> Iterator[Finding]:
    if config.device.path is None:
        yield Finding("device: in memory")
        return
    path = Path(config.device.path)
    folder = path.absolute().parent
    if os.path.lexists(path):
        swap_file = open_swap_file(config)
        assert swap_file is not None, "it has a path"
        swap_file.close()
        yield Finding(f"device: {path} can be used")
    elif not folder.is_dir():
        yield Finding(f"--device: cannot make {path}: there is no folder {folder}", is_problem=True)
        return
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield Finding(
            f"--device: cannot make {path}: {folder} may not be written by this user, or at all", is_problem=True
        )
        return
    else:
        try:
            check_new(path, "is not there")
        except SwapFileUnusable as error:
            yield Finding(f"--device: {error}", is_problem=True)
            return
        yield Finding(f"device: {path} will be made")
    if is_folder_open(folder):
        yield Finding(f"--device: every user of this machine may remove and replace files in {folder}; see chmod")
    if not has_room(folder, ROOM_BYTES):
        yield Finding(f"device: {path} will take no new pages until {ROOM_BYTES >> 20} MiB are free in {folder}")


def _check_listen(config: ServerConfig) -> Iterator[Finding]:
    check_can_listen("--listen", config.listen)
    yield Finding(f"listening: {config.listen} is free")
    if config.metrics is not None:
        check_can_listen("--metrics", config.metrics)
        yield Finding(f"metrics: {config.metrics} is free")


def _findings(check: Callable[[ServerConfig], Iterator[Finding]], config: ServerConfig) -> Iterator[Finding]:
    try:
        yield from check(config)
    except ConfigError as problem:
        yield Finding(str(problem), is_problem=True)


def _text(field: str, value: object) -> str:
    if value is None:
        return "off" if field == "metrics" else "not given"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
