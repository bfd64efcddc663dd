"""Drives a tier to its bounds and prints how many bytes this process grew by, and how many were stated for that."""

import json
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from random import Random

from swaptier_server.config import ServerConfig
from swaptier_server.lifecycle import tier_limits
from swaptier_server.memory import LEASE_BYTES, memory_parts
from swaptier_server.tier.area import Area
from swaptier_server.tier.free import invalidate
from swaptier_server.tier.load import load
from swaptier_server.tier.store import check_store, store_many
from swaptier_server.tier.swap_file import Client
from swaptier_server.tier.tier import Tier
from swaptier_wire.checksum import page_checksum
from swaptier_wire.types import BATCH_SLOTS_MAX, PAGE_BYTES, AreaOptions, LoadMode

GENERATION = 1 << 60
CLAIMS = 4096


def resident_bytes() -> int:
    """Return what this process has in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def fill(area: Area, offsets: Iterable[int], *, is_short: bool) -> None:
    """Store a page for each of *offsets*: one that compresses to 30 bytes, or not at all."""
    random = Random(1)
    todo = list(offsets)
    for start in range(0, len(todo), BATCH_SLOTS_MAX):
        batch = todo[start : start + BATCH_SLOTS_MAX]
        pages = [
            (offset.to_bytes(8, "little") + b"x").ljust(PAGE_BYTES, b"y") if is_short else random.randbytes(PAGE_BYTES)
            for offset in batch
        ]
        generations = [GENERATION + offset for offset in batch]
        check_store(area, batch, generations)
        store_many(area, batch, generations, pages, list(map(page_checksum, pages)))


def full_of_rows(config: ServerConfig) -> tuple[Tier, int]:
    """Return a tier whose slots were all freed, and what was stated for that."""
    tier, area = make_tier(config)
    for start in range(0, area.slots, BATCH_SLOTS_MAX):
        offsets = range(start, start + BATCH_SLOTS_MAX)
        area.check_offsets(offsets)
        for offset in offsets:
            invalidate(area, offset, GENERATION + offset)
    return tier, stated(config, "slots")


def full_of_claims(config: ServerConfig) -> tuple[Tier, int]:
    """Return a tier with pages that are all claimed, and what was stated for the claims."""
    tier, area = make_tier(config)
    fill(area, range(CLAIMS), is_short=True)
    for offset in range(CLAIMS):
        load(area, offset, GENERATION + offset, LoadMode.CLAIM, request_id=GENERATION + offset)
    return tier, CLAIMS * LEASE_BYTES


def full_of_pages(config: ServerConfig, *, is_short: bool) -> tuple[Tier, int]:
    """Return a tier whose pool and device are full, and what was stated for them."""
    tier, area = make_tier(config)
    assert config.device_pages_max is not None
    fill(area, range(config.pool_entries_max + config.device_pages_max + 100), is_short=is_short)
    assert tier.accounts.bounds.device_pages.used == config.device_pages_max, "it is full"
    return tier, stated(config, "pool", "pool's entries", "devices in memory")


def make_tier(config: ServerConfig) -> tuple[Tier, Area]:
    """Return a tier with these bounds, and an area that has all slots."""
    limits = tier_limits(config)
    tier = Tier(limits, 1)
    return tier, tier.swapon(Client("c", 1), "a", config.slots_max, AreaOptions())[0]


def stated(config: ServerConfig, *kinds: str) -> int:
    """Return what was stated for these parts of a server's memory."""
    return sum(part.most for part in memory_parts(config, 1, 1) if part.what.partition(",")[0] in kinds)


def main(config: ServerConfig) -> dict[str, tuple[int, int]]:
    """Return how many bytes this process grew by when a tier was full of something, and what was stated for that."""
    kept, grown = [], {}
    for kind, make in (
        ("rows", full_of_rows),
        ("claims", full_of_claims),
        ("short pages", partial(full_of_pages, is_short=True)),
        ("whole pages", partial(full_of_pages, is_short=False)),
    ):
        before = resident_bytes()
        tier, stated_bytes = make(config)
        kept.append(tier)  # else the next would be made of what this one left
        grown[kind] = resident_bytes() - before, stated_bytes
    return grown


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(ServerConfig.model_validate(json.loads(sys.argv[1])))))
