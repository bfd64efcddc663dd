"""One case of the storm: a swap file is damaged, servers go on with it, and every answer is judged.

A case is a number: its world, its damage, and what hosts then do follow from the storm's seed and that number. What is
right:
  - An answer has bytes of the very slot of the very opening of the area, or zeros, or it has none. With
    `require_generation` the bytes are those of that generation, or there are none.
  - Where the tier itself holds that the slot has a page, it is that page or an error.
  - An area that is opened after the damage reads as never written, and as what was stored since.
  - A start is refused in one line, or the server serves; nothing else is raised.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from tests.server.swapfile.storm.damage import DAMAGES, Struck
from tests.server.swapfile.storm.world import Hosts, Life, Owner, World, make_world, put_back, snapshot

from swaptier_server.check_file import check_file
from swaptier_server.swapfile.file import SwapFileUnusable
from swaptier_server.tier.area import Area
from swaptier_server.tier.device import DeviceError
from swaptier_server.tier.free import acknowledge
from swaptier_server.tier.load import check_load, load
from swaptier_server.tier.slot import DEVICE_STATES, POOL_STATES
from swaptier_wire.checksum import page_checksum
from swaptier_wire.errors import SwapTierError
from swaptier_wire.process.exit_status import ExitStatus
from swaptier_wire.types import NO_GENERATION, STORE_OUTCOMES, ZERO_PAGE, LoadMode, LoadReply, Outcome

CASES_PER_WORLD: Final = 25
REFUSED: Final = (SwapFileUnusable, DeviceError, ValueError)
FIRST_EPOCH: Final = 4
STORED: Final = 4
"""Slots of an area that get a newer page between the looks."""
CLAIM: Final = 7
"""A request id."""
FORGETS, DRAINS, ACKNOWLEDGES = 0.6, 0.5, 0.5
"""How likely a running server has to read a page anew, an end is a drain, and a claim is acknowledged."""
STRANGER: Final = "eve/new"
STRANGER_SLOTS: Final = 20
LIVES: Final = 2
"""Servers one after the other on the damaged file."""


class Wrong(Exception):
    """The case came to something that must not be."""


class Case(NamedTuple):
    """One damage of one file."""

    seed: int
    number: int

    def __str__(self) -> str:
        return f"python -m tests.server.swapfile.storm --seed {self.seed} --first {self.number} --cases 1"


class Judged(NamedTuple):
    """What a case goes by, from its damage on."""

    hosts: Hosts
    chance: random.Random
    counts: Counter[str]
    is_whole: bool
    """The file was put back to an earlier moment as a whole: it may have what it had then."""


def run_case(case: Case, counts: Counter[str]) -> None:
    """Run *case*, and count what it came to.

    Raises:
        Wrong: with the command that repeats it, and what was damaged.
    """
    chance = random.Random(f"case {case.seed} {case.number}")
    world = _world(case.seed, case.number // CASES_PER_WORLD)
    other = _world(case.seed, case.number // CASES_PER_WORLD + 1)
    names = [chance.choice(list(DAMAGES)) for _ in range(chance.choice([1, 1, 1, 2]))]
    state = chance.choice(["running", "killed", "stopped"])
    judged = Judged(Hosts(world.hosts), chance, counts, "whole_older_file" in names)
    counts.update([*names, state])
    try:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "swap"
            put_back(world.stopped if state == "stopped" else world.killed, path)
            _strike_and_judge(Struck(chance, path, world.older, other.killed, None), names, state, judged, world)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise Wrong(f"{', '.join(names)} of a {state} server's file: {what}\nto repeat: {case}") from error


@lru_cache(maxsize=4)
def _world(seed: int, number: int) -> World:
    with TemporaryDirectory() as folder:
        return make_world(f"world {seed} {number}", Path(folder))


def _strike_and_judge(struck: Struck, names: Sequence[str], state: str, judged: Judged, world: World) -> None:
    chance = judged.chance
    if state == "running":
        life = Life(struck.path, FIRST_EPOCH, writes_through=world.writes_through)
        for area in list(life.tier.areas.values()):
            judged.hosts.store(area, sorted(chance.sample(range(area.slots), STORED)))
        if chance.random() < FORGETS:
            life.file._db.execute("PRAGMA shrink_memory")
        struck = struck._replace(server=life.file._db)
    for name in names:
        DAMAGES[name](struck)
    is_whole = state != "running" and _is_whole(struck.path)
    if state == "running":
        _judge_life(life, judged)
        life.end(drains=chance.random() < DRAINS)
    for epoch in range(FIRST_EPOCH + 1, FIRST_EPOCH + 1 + LIVES):
        try:
            life = Life(struck.path, epoch, writes_through=world.writes_through)
        except REFUSED as error:
            if "\n" in str(error) or not str(error):
                raise Wrong(f"refused in other than one line: {error}") from error
            if is_whole:
                raise Wrong(f"check-file called it whole, and the start refused it: {error}") from error
            judged.counts["refused"] += 1
            return
        if is_whole and (life.file.findings or (epoch == FIRST_EPOCH + 1 and _damaged_pages(life))):
            raise Wrong(f"check-file called it whole, and the start found {life.file.findings}")
        _judge_life(life, judged)
        life.end(drains=chance.random() < DRAINS)


def _is_whole(path: Path) -> bool:
    """Ask check-file, which changes nothing.

    Raises:
        Wrong: it has changed something.
    """
    before = snapshot(path)
    status, lines = check_file(path)
    if snapshot(path) != before:
        raise Wrong("check-file changed a file")
    if not lines or any("\n" in line for line in lines):
        raise Wrong(f"check-file said other than lines: {lines}")
    return status == ExitStatus.AS_SPECIFIED


def _damaged_pages(life: Life) -> int:
    """Return how many pages that a server has after its start are answered with ERROR."""
    shared = LoadMode.SHARED
    replies = (_load(area, offset, shared, None) for area in life.tier.areas.values() for offset in range(area.slots))
    return sum(reply.outcome is Outcome.ERROR for reply in replies)


def _judge_life(life: Life, judged: Judged) -> None:
    """Load every slot in every way, store, and open areas for another tenant; judge every answer."""
    hosts, tier = judged.hosts, life.tier
    tier.check_invariants()
    for area in list(tier.areas.values()):
        owners = _owners(judged, area)
        for offset in range(area.slots):
            for reply, mode, wanted in _load_all_ways(area, offset, judged):
                judged.counts[reply.outcome.name] += 1
                _judge(hosts, owners, area, offset, reply, mode, wanted)
    tier.check_invariants()
    for area in list(tier.areas.values()):
        _store_and_load(area, judged)
    gone = [name for name in hosts.owners if name not in tier.areas]
    for name in (STRANGER, *gone):
        try:
            if name in tier.areas:
                hosts.close(tier, name)
            area = hosts.open(tier, name, STRANGER_SLOTS)
        except SwapTierError:
            judged.counts["no new area"] += 1
            continue
        for offset in range(area.slots):
            for wanted in (None, 1, 2):
                content = _load(area, offset, LoadMode.SHARED, wanted).content()
                if content is not None and (wanted is not None or content != ZERO_PAGE):
                    raise Wrong(f"a new area {name!r} reads {_what(hosts, content)} in slot {offset}")
        _store_and_load(area, judged)
    life.keep_house()
    tier.check_invariants()


def _owners(judged: Judged, area: Area) -> set[Owner]:
    """Return whose pages the loads of *area* may give: those of one opening, if the file is not an earlier one.

    Damage may bring back an area that was closed, with what is left of its pages: to the client that had opened it.

    Raises:
        Wrong: there never was such an area.
    """
    hosts = judged.hosts
    owners = {owner for owner in (*hosts.past, *hosts.owners.values()) if owner[:2] == (area.name, area.client)}
    if not owners:
        raise Wrong(f"{area.client} has an area {area.name!r} that it never opened")
    now = hosts.owners.get(area.name)
    if now is None or now not in owners:
        now = hosts.owners[area.name] = max(owners, key=lambda owner: owner.opening)
    return owners if judged.is_whole else {now}


def _store_and_load(area: Area, judged: Judged) -> None:
    """Store in some slots and load them: a store that was acknowledged is answered with its page."""
    hosts, shared = judged.hosts, LoadMode.SHARED
    owners = _owners(judged, area)
    offsets = sorted(judged.chance.sample(range(area.slots), STORED))
    for offset, outcome in zip(offsets, hosts.store(area, offsets), strict=True):
        judged.counts[f"store {outcome.name}"] += 1
        if outcome not in STORE_OUTCOMES or outcome is Outcome.ERROR:
            raise Wrong(f"a store of slot {offset} was answered {outcome.name}")
        for wanted in (None, hosts.newest[hosts.owners[area.name], offset]):
            _judge(hosts, owners, area, offset, _load(area, offset, shared, wanted), shared, wanted)


def _load(area: Area, offset: int, mode: LoadMode, wanted: int | None, request_id: int = 1) -> LoadReply:
    """Load as a request does: the *wanted* generation, or any when that is None."""
    check_load(area, [offset], [mode])
    exact = wanted is not None
    return load(area, offset, wanted or 1, mode, request_id=request_id, require_generation=exact)


def _load_all_ways(area: Area, offset: int, judged: Judged) -> Iterator[tuple[LoadReply, LoadMode, int | None]]:
    """Load a slot with and without its generation, and then take it in some way; yield each answer."""
    hosts, chance = judged.hosts, judged.chance
    newest = hosts.newest.get((hosts.owners[area.name], offset), 1)
    for wanted in (newest, None, chance.randint(1, newest)):
        yield _load(area, offset, LoadMode.SHARED, wanted), LoadMode.SHARED, wanted
    mode, wanted = chance.choice(list(LoadMode)), chance.choice([newest, None])
    reply = _load(area, offset, mode, wanted, CLAIM)
    yield reply, mode, wanted
    if mode is LoadMode.CLAIM:
        again = _load(area, offset, mode, wanted, CLAIM)
        yield again, mode, wanted
        if again.content() != reply.content() and again.outcome is not Outcome.ERROR:
            raise Wrong(f"the claim of slot {offset} was answered with another page when it was repeated")
        if chance.random() < ACKNOWLEDGES:
            acknowledge(area, offset, reply.generation, CLAIM)


def _judge(
    hosts: Hosts, owners: set[Owner], area: Area, offset: int, reply: LoadReply, mode: LoadMode, wanted: int | None
) -> None:
    """Judge an answer, and what the tier held for the slot's page when it gave that.

    Raises:
        Wrong: the answer is.
    """
    content = reply.content()
    where = f"{mode.name} load of {area.name!r}, slot {offset}, " + ("any" if wanted is None else f"exactly {wanted}")
    if content is None:
        return
    if page_checksum(content) != reply.checksum:
        raise Wrong(f"{where}: the checksum is another page's")
    page = hosts.pages.get(content)
    slot = area.held(offset)
    knows = slot.generation if slot.state in (*POOL_STATES, *DEVICE_STATES) else NO_GENERATION
    if content == ZERO_PAGE and reply.generation == NO_GENERATION and wanted is None:
        if knows != NO_GENERATION:
            raise Wrong(f"{where}: zeros, where the tier knows of generation {knows}")
        return
    if page is None or page.owner not in owners or (page.offset, page.generation) != (offset, reply.generation):
        raise Wrong(f"{where}: generation {reply.generation}, {_what(hosts, content)}, and its owner is {owners}")
    if wanted not in (None, page.generation):
        raise Wrong(f"{where}: got generation {page.generation}")
    if knows not in (NO_GENERATION, page.generation):
        raise Wrong(f"{where}: generation {page.generation}, where the tier knows of {knows}")


def _what(hosts: Hosts, content: bytes) -> str:
    return str(hosts.pages.get(content, "zeros" if content == ZERO_PAGE else "bytes that were never stored"))
