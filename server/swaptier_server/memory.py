"""How much memory a server may use, from the bounds of its configuration: in all, and for one tenant.

Touches the files in which Linux says how much there is. Each part is a bound times what one of it was measured to cost
on CPython 3.11, rounded up; `tests/server/memory` drives a server to its bounds and compares.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from swaptier_server.config import CALLS_MAX, LEASES_MAX, ServerConfig
from swaptier_server.malloc import TRIM_BYTES
from swaptier_server.rpc.server import MESSAGE_OVERHEAD_BYTES, REFUSED_CALLS_MAX, WINDOW_BYTES
from swaptier_server.tier.account import ACCOUNTS_MAX, CLIENTS_REMEMBERED_MAX, Bound
from swaptier_server.tier.slot_table import ROW_BYTES
from swaptier_wire.types import PAGE_BYTES

PROCESS_BYTES: Final = 112 << 20
"""Interpreter, libraries and gRPC's own, with some connections: 75 to 100 MiB."""
FREED_BYTES: Final = TRIM_BYTES + (32 << 20)
"""Kept by the allocator, and the copies of the message that is being answered."""
ENTRY_BYTES: Final = 720
"""Of a page in the pool besides its bytes: its slot, and its places on the LRU and in the slot table."""
DEVICE_PAGE_BYTES: Final = 450
"""Of a page on a device in memory besides its bytes."""
LEASE_BYTES: Final = 1100
"""Of a claim: a slot that may have been a row, and its lease."""
AREA_BYTES: Final = 1 << 20
"""Of an area: slots that are objects between two batches, counters, and its series in a scrape."""
CALL_MESSAGES: Final = 3
"""Of the largest, that a call may keep: what came, its answer, which its client does not read, and gRPC's copy."""
CALL_BYTES: Final = 64 << 10
"""Of a call besides its messages."""
REFUSED_CALL_BYTES: Final = 20 << 10
CONNECTION_BYTES: Final = 30 << 10
TLS_CONNECTION_BYTES: Final = 70 << 10
CLIENT_BYTES: Final = 250
"""Of a client whose epoch is remembered."""
SWAP_FILE_BYTES: Final = 16 << 20
"""SQLite's page caches, and the index of its log."""

CGROUP: Final = Path("/sys/fs/cgroup/memory.max")
MEMORY_INFO: Final = Path("/proc/meminfo")


class MemoryPart(NamedTuple):
    """What one kind of thing may take."""

    what: str
    """And how many there may be."""
    most: int
    """Bytes."""
    tenant_most: int
    """Of them, for one tenant."""


def memory_parts(config: ServerConfig, tenants: int, connections: int) -> Iterator[MemoryPart]:
    """Yield what a server of *config* may take that is divided among *tenants* and has so many *connections*."""

    def part(what: str, most: int, cost: int, tenant_max: int | None = None) -> MemoryPart:
        bound = Bound()
        bound.divide(most, tenants)
        for_one = bound.reserved + bound.lendable
        return MemoryPart(what, most * cost, min(for_one, for_one if tenant_max is None else tenant_max) * cost)

    message = config.batch_slots_max * PAGE_BYTES + MESSAGE_OVERHEAD_BYTES
    entries, pages = config.pool_entries_max, config.device_pages_max
    knows = config.knows_tenants
    tenant_slots, tenant_areas, tenant_calls = (
        (config.tenant_slots_max, config.tenant_areas_max, config.tenant_requests_max + config.tenant_streams_max)
        if knows
        else (None, None, None)
    )
    yield MemoryPart("process, and freed memory that it keeps", PROCESS_BYTES + FREED_BYTES, 0)
    yield part("pool", config.pool_limit, 1)
    yield part(f"pool's entries, {entries}", entries, ENTRY_BYTES)
    if config.device.path is None:
        assert pages is not None, "in memory there is a bound"
        yield part(f"devices in memory, {pages} pages", pages, PAGE_BYTES + DEVICE_PAGE_BYTES)
    else:
        yield MemoryPart("swap file's caches", SWAP_FILE_BYTES, 0)
    yield part(f"slots, {config.slots_max}", config.slots_max, ROW_BYTES + 1, tenant_slots)
    yield part(f"areas, {config.areas_max}", config.areas_max, AREA_BYTES, tenant_areas)
    yield part(f"claims, {LEASES_MAX}", LEASES_MAX, LEASE_BYTES)
    yield part(f"calls, {CALLS_MAX}", CALLS_MAX, CALL_MESSAGES * message + WINDOW_BYTES + CALL_BYTES, tenant_calls)
    yield MemoryPart(f"calls being refused, {REFUSED_CALLS_MAX}", REFUSED_CALLS_MAX * REFUSED_CALL_BYTES, 0)
    each = CONNECTION_BYTES if config.tls_cert is None else TLS_CONNECTION_BYTES
    yield MemoryPart(f"connections, {connections}", connections * each, 0)
    remembered = 1 if not knows else tenants if config.tokens is not None else ACCOUNTS_MAX
    yield MemoryPart(
        f"remembered clients, {CLIENTS_REMEMBERED_MAX} a tenant",
        remembered * CLIENTS_REMEMBERED_MAX * CLIENT_BYTES,
        CLIENTS_REMEMBERED_MAX * CLIENT_BYTES,
    )


def memory_lines(config: ServerConfig, tenants: int, connections: int) -> Iterator[str]:
    """Yield what a server may use, added up, and of what that is the sum."""
    parts = list(memory_parts(config, tenants, connections))
    total = sum(part.most for part in parts)
    one_of = f"; one tenant of {tenants} up to {text(sum(part.tenant_most for part in parts))} of it"
    yield f"memory: this server may use up to {text(total)}{one_of if tenants > 1 else ''}"
    for part in parts:
        of_one = f", {text(part.tenant_most)} for one tenant" if tenants > 1 and part.tenant_most else ""
        yield f"  {text(part.most):>9}  {part.what}{of_one}"
    if (there := machine_bytes()) is not None and total > there:
        yield f"memory: that is more than the {text(there)} that this machine, or its container, has"


def _reserved(most: int, tenants: int) -> int:
    bound = Bound()
    bound.divide(most, tenants)
    return bound.reserved


def share_line(config: ServerConfig, tenants: int) -> str:
    """Return what is reserved for each tenant, and what nobody has a share of."""
    shares = [
        (name, _reserved(most, tenants))
        for name, most in (
            ("areas", config.areas_max),
            ("slots", config.slots_max),
            ("bytes of the pool", config.pool_limit),
            ("pages of device", config.device_pages_max),
            ("claims", LEASES_MAX),
            ("calls", CALLS_MAX),
        )
        if most is not None
    ]
    none = [name for name, share in shares if share == 0]
    hint = f"; too many tenants to have a share of {', '.join(none)}" if none else ""
    return (
        f"shares: reserved for each of {tenants} tenants: {', '.join(f'{size} {name}' for name, size in shares)}{hint}"
    )


def machine_bytes(cgroup: Path = CGROUP, info: Path = MEMORY_INFO) -> int | None:
    """Return how much memory there is for this process; None where nothing says."""
    found: list[int] = []
    for path, read in ((cgroup, _cgroup_bytes), (info, _total_bytes)):
        try:
            content = path.read_text(encoding="ascii")
        except OSError:
            continue
        if (there := read(content)) is not None:
            found.append(there)
    return min(found, default=None)


def text(size: int) -> str:
    """Return *size* for people: 3.1 GiB."""
    if size >= 1 << 30:
        return f"{size / (1 << 30):.1f} GiB"
    return f"{-(-size // (1 << 20))} MiB"


def _cgroup_bytes(content: str) -> int | None:
    return int(content) if content.strip().isdigit() else None


def _total_bytes(content: str) -> int | None:
    fields = content.split()
    return int(fields[1]) << 10 if fields[:1] == ["MemTotal:"] else None
