"""What hosts stored in a swap file, and that file at several moments of its life, for a storm to damage.

A world is made of a seed alone. Every page says in its bytes whose it is: the truth of a load is found by its content.
"""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from swaptier_server.swapfile.file import SqliteSwapFile
from swaptier_server.tier.area import Area, Durability
from swaptier_server.tier.device import DeviceError
from swaptier_server.tier.free import invalidate
from swaptier_server.tier.store import store_many
from swaptier_server.tier.swap_file import Client
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_wire.checksum import page_checksum
from swaptier_wire.types import PAGE_BYTES, AreaOptions, Outcome, fill_page

FREE_ON_READ: Final = AreaOptions(device_free_on_read=True)
SIDES: Final = ("", "-wal")
"""A swap file and what is beside it, by the end of its name."""
NAMES: Final = ("alice/swap", "alice/two", "bob/swap", "carol/swap")
SLOTS: Final = (6, 12, 20)


class Owner(NamedTuple):
    """An area from one Swapon to its end. Another of the same name is another owner."""

    name: str
    client: Client
    opening: int


class Page(NamedTuple):
    """Which page some bytes are."""

    owner: Owner
    offset: int
    generation: int


Snapshot = Mapping[str, bytes]
"""The files of a swap file, by the end of their names."""


class Hosts:
    """What all hosts together know: their areas, and each page that they ever stored."""

    def __init__(self, before: "Hosts | None" = None) -> None:
        """Know nothing, or what others knew *before*."""
        self.pages: Final[dict[bytes, Page]] = {} if before is None else dict(before.pages)
        self.owners: Final[dict[str, Owner]] = {} if before is None else dict(before.owners)
        """Of the areas that are open, by name."""
        self.newest: Final[dict[tuple[Owner, int], int]] = {} if before is None else dict(before.newest)
        """The highest generation that a slot was stored with."""
        self.past: Final[list[Owner]] = [] if before is None else list(before.past)
        """Of the areas that were closed."""
        self._openings: int = 0 if before is None else before._openings

    def open(self, tier: Tier, name: str, slots: int) -> Area:
        """Open an area that is not. Its host may be in the life in which it had one of that name before, or not."""
        self._openings += 1
        client = Client(f"{name.partition('/')[0]}/{name}", self._openings // 3)
        options = AreaOptions() if self._openings % 4 else FREE_ON_READ
        area, is_open = tier.swapon(client, name, slots, options)
        assert not is_open, f"{name} was opened, and the tier says that it was open"
        self.owners[name] = Owner(name, client, self._openings)
        return area

    def store(self, area: Area, offsets: list[int]) -> list[Outcome]:
        """Store a newer page in each slot, in one batch."""
        owner = self.owners[area.name]
        pages = []
        for offset in offsets:
            generation = self.newest[owner, offset] = self.newest.get((owner, offset), 0) + 1
            pages.append(Page(owner, offset, generation))
        contents = [_content(page) for page in pages]
        self.pages.update(zip(contents, pages, strict=True))
        generations = [page.generation for page in pages]
        checksums = list(map(page_checksum, contents))
        return [reply.outcome for reply in store_many(area, offsets, generations, contents, checksums)]

    def free(self, area: Area, offset: int) -> None:
        """Free a slot, if it was stored."""
        generation = self.newest.get((self.owners[area.name], offset))
        if generation is not None:
            invalidate(area, offset, generation)

    def close(self, tier: Tier, name: str) -> None:
        """Close an area."""
        owner = self.owners.pop(name)
        self.past.append(owner)
        tier.swapoff(owner.client, name)


class Life:
    """A server on a swap file, in this process: opened and started as the program does it."""

    def __init__(self, path: Path, epoch: int, *, writes_through: bool) -> None:
        """Start.

        Raises:
            SwapFileUnusable, DeviceError, ValueError: it is refused, in one line.
        """
        self.file: Final = SqliteSwapFile(path)
        try:
            epoch = self.file.begin_life(epoch)
            durability = Durability.WRITE_THROUGH if writes_through else Durability.MEMORY
            self.tier: Final = Tier(TierLimits(1 << 20), epoch, swap_file=self.file, durability=durability)
        except BaseException:
            self.file.close()
            raise

    def keep_house(self) -> None:
        """Do all that a server does by the way."""
        self.file.look()
        for _ in range(64):
            if self.tier.is_ending:
                try:
                    self.tier.end_some()
                except DeviceError:
                    break
        self.file.give_back()
        self.file.bring_in_the_log()

    def end(self, *, drains: bool) -> None:
        """End it, with a drain or as if it were killed."""
        if drains:
            for _ in self.tier.drain():
                pass
        self.file.close()


class World(NamedTuple):
    """A swap file with a history."""

    hosts: Hosts
    writes_through: bool
    older: tuple[Snapshot, ...]
    """Of earlier moments, all in the file."""
    stopped: Snapshot
    killed: Snapshot
    """As `stopped`, with the newest pages in the log."""


def make_world(seed: str, folder: Path) -> World:
    """Make the world of this *seed*, in an empty *folder*."""
    chance = random.Random(seed)
    hosts = Hosts()
    writes_through = chance.random() < 0.5
    path = folder / "swap"
    older: list[Snapshot] = []
    for epoch in (1, 2, 3):
        life = Life(path, epoch, writes_through=writes_through)
        _live(life.tier, hosts, chance)
        life.keep_house()
        if epoch == 3:
            for _ in life.tier.drain():
                pass
            killed = snapshot(path)
        life.end(drains=True)
        older.append(snapshot(path))
    return World(hosts, writes_through, tuple(older[:2]), older[2], killed)


def _live(tier: Tier, hosts: Hosts, chance: random.Random) -> None:
    """Let hosts open and close areas, store and free."""
    for name in NAMES:
        if name in hosts.owners and chance.random() < 0.3:
            hosts.close(tier, name)
        if name not in hosts.owners and chance.random() < 0.8:
            hosts.open(tier, name, chance.choice(SLOTS))
        area = tier.areas.get(name)
        for _ in range(0 if area is None else 2):
            assert area is not None
            stored = hosts.store(area, sorted(chance.sample(range(area.slots), area.slots // 2)))
            assert set(stored) <= {Outcome.STORED, Outcome.DEVICE}
            hosts.free(area, chance.randrange(area.slots))


def snapshot(path: Path) -> Snapshot:
    """Return what the files at *path* are now."""
    return {side: Path(f"{path}{side}").read_bytes() for side in SIDES if Path(f"{path}{side}").exists()}


def put_back(files: Snapshot, path: Path) -> None:
    """Make the files at *path* what they were."""
    for side, content in files.items():
        file = Path(f"{path}{side}")
        file.write_bytes(content)
        file.chmod(0o600)


def _content(page: Page) -> bytes:
    """Return the bytes of a page: of each way to keep one, by its slot and generation."""
    text = f"{page.owner.name} opened as {page.owner.opening}, slot {page.offset}, generation {page.generation}; "
    kind = (page.offset + page.generation) % 4
    if kind == 0:
        return fill_page(random.Random(text).getrandbits(64))
    noise = random.Random(text).randbytes((0, 100, 2000, PAGE_BYTES)[kind])
    return (noise + text.encode() * (PAGE_BYTES // len(text) + 1))[:PAGE_BYTES]
