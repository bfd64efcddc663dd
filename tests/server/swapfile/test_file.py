"""The swap file on disk: what is kept, what a damaged, full, read-only or failing one does, and who may open it."""

import fcntl
import os
import random
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.builders import noise_of, page_of
from tests.server.builders import put

from swaptier_server.swapfile.file import FORMAT, SqliteDevice, SqliteSwapFile, SwapFileUnusable
from swaptier_server.swapfile.rows import AREA_COLUMNS, seal_of
from swaptier_server.tier.area import Durability
from swaptier_server.tier.device import DeviceError, DeviceFault
from swaptier_server.tier.load import load
from swaptier_server.tier.page import UNWRITTEN, DecodeError, StoredPage, decode, stored_page
from swaptier_server.tier.store import store_many
from swaptier_server.tier.swap_file import Client, SavedArea, SavedPage
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_wire.checksum import page_checksum
from swaptier_wire.types import (
    PAGE_BYTES,
    ZERO_PAGE,
    AreaOptions,
    LoadMode,
    LoadReply,
    Outcome,
    Reason,
    SlotReply,
    fill_page,
)

pytestmark = pytest.mark.usefixtures("files_of_ours_alone")

BIG = (1 << 64) - 1
"""The largest number of the wire. SQLite's are smaller."""
AREA = SavedArea("swap", Client("host", BIG), 64, AreaOptions(pool_bytes_max=1 << 40))
NOISE = noise_of(3)
TEXT = page_of(1)
PAGES = {0: ZERO_PAGE, 1: fill_page(BIG), 2: TEXT, 63: NOISE}


def stored(page: bytes, generation: int = 1) -> StoredPage:
    return stored_page(page, page_checksum(page), generation)


def open_file(directory: Path) -> SqliteSwapFile:
    return SqliteSwapFile(directory / "swap")


def device_of(file: SqliteSwapFile, area: SavedArea = AREA) -> SqliteDevice:
    device = file.open_area(area, ())
    assert isinstance(device, SqliteDevice)
    return device


def reopened(file: SqliteSwapFile, name: str = "swap") -> tuple[SqliteDevice, list[SavedPage]]:
    device, pages = file.reopen_area(name)
    assert isinstance(device, SqliteDevice)
    return device, list(pages)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[SqliteSwapFile]:
    with open_file(tmp_path) as opened:
        yield opened


@contextmanager
def full(file: SqliteSwapFile) -> Iterator[None]:
    """Let the file have no further page."""
    file._db.execute("PRAGMA max_page_count = 1")
    yield
    file._db.execute("PRAGMA max_page_count = 1000000")


@contextmanager
def read_only(file: SqliteSwapFile) -> Iterator[None]:
    """Let nobody write. A test that runs as root is not stopped by a file's mode."""
    file._db.execute("PRAGMA query_only = ON")
    yield
    file._db.execute("PRAGMA query_only = OFF")


@contextmanager
def limited(_file: SqliteSwapFile) -> Iterator[None]:
    """Let this process make no file longer: SQLite takes that for a failing medium, as it does a quota."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@contextmanager
def failing(file: SqliteSwapFile) -> Iterator[None]:
    """Let the system fail every write to the log, by a descriptor that only reads in the place of SQLite's."""
    log = f"{file.path}-wal"
    descriptors = [int(one.name) for one in Path("/proc/self/fd").iterdir() if os.path.realpath(one) == log]
    writes = [one for one in descriptors if fcntl.fcntl(one, fcntl.F_GETFL) & os.O_RDWR]
    (its,) = writes
    kept, reads = os.dup(its), os.open(log, os.O_RDONLY)
    os.dup2(reads, its)
    yield
    os.dup2(kept, its)
    os.close(kept)
    os.close(reads)


# What is kept


def test_a_device_reads_what_was_written_in_every_encoding(file: SqliteSwapFile) -> None:
    device = device_of(file)
    written = {offset: stored(page, BIG - offset) for offset, page in PAGES.items()}
    device.write(list(written.items()))
    assert {offset: device.read(offset) for offset in PAGES} == written
    assert {offset: decode(device.read(offset)) for offset in PAGES} == PAGES
    assert device.read(5) == UNWRITTEN


def test_a_slot_is_overwritten_and_dropped(file: SqliteSwapFile) -> None:
    device = device_of(file)
    device.write([(0, stored(TEXT, 1))])
    device.write([(0, stored(NOISE, 2))])
    assert device.read(0) == stored(NOISE, 2)
    device.drop(0)
    device.drop(0)
    assert device.read(0) == UNWRITTEN


def test_areas_and_pages_are_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    other = SavedArea("ünicode", Client("öther", 0), 1 << 32, AreaOptions(True, None, False))
    with open_file(tmp_path) as file:
        device_of(file).write([(offset, stored(page, 7)) for offset, page in PAGES.items()])
        device_of(file, other).write([((1 << 32) - 1, stored(TEXT, BIG))])
    with open_file(tmp_path) as file:
        assert file.saved_areas() == [AREA, other]
        device, pages = reopened(file)
        assert pages == [SavedPage(offset, 7, page_checksum(page)) for offset, page in PAGES.items()]
        assert {offset: decode(device.read(offset)) for offset in PAGES} == PAGES
        device, pages = reopened(file, other.name)
        assert pages == [SavedPage((1 << 32) - 1, BIG, page_checksum(TEXT))]
        assert (file.findings.damaged_areas, file.findings.damaged_pages) == (0, 0)


def test_an_area_that_is_opened_anew_finds_no_page_of_those_it_replaces(tmp_path: Path) -> None:
    with open_file(tmp_path) as file:
        for name in ("swap", "old", "kept"):
            device_of(file, AREA._replace(name=name)).write([(0, stored(TEXT))])
        device = file.open_area(AREA, ["old", "never was"])
        assert device.read(0) == UNWRITTEN
        assert [area.name for area in file.saved_areas()] == ["kept", "swap"]
        file.forget_area("kept")
        file.forget_area("kept")
    with open_file(tmp_path) as file:
        assert file.saved_areas() == [AREA]
        assert reopened(file)[1] == []
        while file.has_rest:
            file.sweep()
        assert file._db.execute("SELECT count(*) FROM pages").fetchone() == (0,)


def test_the_pages_of_a_large_area_are_deleted_some_at_a_time_also_by_the_next_server(tmp_path: Path) -> None:
    """From the first moment nothing finds them, under the same name or another; what is not served stays."""

    def pages() -> int:
        return int(file._db.execute("SELECT count(*) FROM pages").fetchone()[0])

    with open_file(tmp_path) as file:
        for name in ("swap", "damaged"):
            device_of(file, AREA._replace(name=name)).write([(offset, stored(TEXT)) for offset in range(1000)])
        file._db.execute("UPDATE areas SET seal = 0 WHERE name = 'damaged'")
        file.forget_area("swap")
        assert (pages(), file.has_rest) == (2000, True)
        device = device_of(file)
        assert device.read(999) == UNWRITTEN
        device.write([(0, stored(TEXT))])
        file.sweep(100)
        assert pages() == 1901
    with open_file(tmp_path) as file:
        assert file.saved_areas() == [AREA]
        assert len(reopened(file)[1]) == 1
        while file.has_rest:
            before = pages()
            file.sweep(100)
            assert before - pages() <= 100
        assert pages() == 1001


def test_to_forget_an_area_writes_a_small_part_of_what_it_had(tmp_path: Path) -> None:
    """Else the largest area of all could not be closed on a disk that it has filled, and would hold up everybody."""
    with open_file(tmp_path) as file:
        device = device_of(file, AREA._replace(slots=4096))
        for first in range(0, 4096, 256):
            device.write([(offset, stored(NOISE)) for offset in range(first, first + 256)])
    with open_file(tmp_path) as file:
        file.forget_area("swap")
        assert (tmp_path / "swap-wal").stat().st_size < (tmp_path / "swap").stat().st_size / 10


def test_a_device_of_an_area_that_was_forgotten_writes_into_nobody_elses(file: SqliteSwapFile) -> None:
    gone = device_of(file)
    file.forget_area("swap")
    device = device_of(file)
    gone.write([(0, stored(TEXT))])
    assert device.read(0) == UNWRITTEN


def test_every_server_has_a_higher_epoch_than_those_before(tmp_path: Path) -> None:
    """By chance where the clock gives none, so that one whose record was put back differs from the one it follows."""
    epochs = []
    for now in (100, 50, 1000, 1000):  # as a clock goes that is set
        with open_file(tmp_path) as file:
            epochs.append(file.begin_life(now))
    assert epochs[0] == 100 and epochs == sorted(set(epochs))


def test_an_area_with_options_of_a_later_version_is_not_served_as_if_it_had_none(tmp_path: Path) -> None:
    with open_file(tmp_path) as file:
        device_of(file)
        *columns, _seal = file._db.execute(f"SELECT {AREA_COLUMNS} FROM areas").fetchone()  # noqa: S608 - of a constant
        columns[-1] = '{"pool_bytes_max": null, "will_be_invented": 1}'
        file._db.execute("UPDATE areas SET options = ?, seal = ?", (columns[-1], seal_of(columns)))
    with pytest.raises(SwapFileUnusable, match="does not know: will_be_invented"):
        open_file(tmp_path)


STORE_UNTIL_KILLED = """
import os, sys
from pathlib import Path
from swaptier_server.swapfile.file import SqliteSwapFile
from swaptier_server.tier.area import Durability
from swaptier_server.tier.store import store_many
from swaptier_server.tier.swap_file import Client
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_wire.checksum import page_checksum
from swaptier_wire.types import AreaOptions, Outcome

tier = Tier(TierLimits(1 << 30), 1, swap_file=SqliteSwapFile(Path(sys.argv[1])), durability=Durability.WRITE_THROUGH)
area, _ = tier.swapon(Client("host", 1), "swap", 8, AreaOptions())
for generation in range(1, 1 << 30):
    page = generation.to_bytes(8, "little") + bytes(4088)
    replies = store_many(area, range(8), [generation] * 8, [page] * 8, [page_checksum(page)] * 8)
    assert {reply.outcome for reply in replies} == {Outcome.STORED}
    os.write(1, b".")  # the acknowledgement
"""


def test_everything_that_was_acknowledged_is_there_after_a_kill_in_the_middle_of_it(tmp_path: Path) -> None:
    """And a batch is there whole or not at all."""
    command = [sys.executable, "-c", STORE_UNTIL_KILLED, str(tmp_path / "swap")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        acknowledged = len(process.stdout.read(200))
        process.kill()
        acknowledged += len(process.stdout.read())
    assert acknowledged >= 200, "it was killed before it had begun"
    with open_file(tmp_path) as file:
        _, pages = reopened(file)
        assert file.findings.damaged_pages == 0
    assert len(pages) == 8
    generations = {page.generation for page in pages}
    assert len(generations) == 1 and generations <= {acknowledged, acknowledged + 1}


# A damaged file


def damage(file: SqliteSwapFile, table: str, what: str) -> None:
    """Change what is in the file, as no server does."""
    file._db.execute(f"UPDATE {table} SET {what}")  # noqa: S608 - from this file's own lines


@pytest.mark.parametrize(
    "what",
    [
        "generation = generation + 1",
        "checksum = checksum + 1",
        "kind = 2",
        "kind = 77",
        "kind = 'lz4'",
        "seal = seal + 1",
        "seal = 'x'",
        "generation = 'x'",
        "generation = 1.5",
        "checksum = x'00'",
        "number = number + 1",
        "body = substr(body, 2)",
        "body = body || x'00'",
        "body = x''",
        "body = 'a text'",
    ],
)
def test_a_row_that_is_not_what_was_written_is_never_a_page(tmp_path: Path, what: str) -> None:
    """Its slot is not restored, so a load that asks for its generation gets LOST; any other gets ERROR."""
    with open_file(tmp_path) as file:
        tier = Tier(TierLimits(0), 1, swap_file=file)
        area, _ = tier.swapon(Client("host", 1), "swap", 8, AreaOptions())
        assert put(area, 0, 5, TEXT).outcome is Outcome.DEVICE
        damage(file, "pages", what)
        assert load(area, 0, 5, LoadMode.SHARED).outcome in (Outcome.ERROR, Outcome.DEVICE)
        assert load(area, 0, 5, LoadMode.SHARED).page != TEXT
        assert load(area, 0, 5, LoadMode.SHARED, require_generation=True).outcome is Outcome.ERROR
    with open_file(tmp_path) as file:
        area = Tier(TierLimits(0), 2, swap_file=file).areas["swap"]
        assert file.findings.damaged_pages == 1
        for offset in (0, 1):
            safe = load(area, offset, 5, LoadMode.SHARED, require_generation=True)
            assert (safe.outcome, safe.reason) == (Outcome.LOST, Reason.RESTARTED)
        offset = 1 if what.startswith("number") else 0
        assert load(area, offset, 5, LoadMode.SHARED) == LoadReply(Outcome.ERROR, Reason.CHECKSUM)
        assert put(area, offset, 6, NOISE) == SlotReply(Outcome.DEVICE, Reason.POOL_LIMIT)
        assert load(area, offset, 6, LoadMode.SHARED, require_generation=True).page == NOISE


def test_a_body_that_was_changed_is_found_by_the_pages_checksum(tmp_path: Path) -> None:
    """Of every encoding; its length is as it was, so the row looks whole until it is read."""
    with open_file(tmp_path) as file:
        device_of(file).write([(offset, stored(page, 5)) for offset, page in PAGES.items()])
        damage(file, "pages", "body = zeroblob(length(body)) WHERE number & 4294967295 != 0")
    with open_file(tmp_path) as file:
        area = Tier(TierLimits(0), 2, swap_file=file).areas["swap"]
        assert file.findings.damaged_pages == 0
        outcomes = [load(area, offset, 5, LoadMode.SHARED, require_generation=True).outcome for offset in PAGES]
        assert outcomes == [Outcome.DEVICE, Outcome.ERROR, Outcome.ERROR, Outcome.ERROR]


def test_bytes_flipped_anywhere_in_the_file_never_give_a_wrong_page(tmp_path: Path) -> None:
    """Whatever is hit: the file is refused, a row is not restored, a load answers ERROR or LOST, or nothing changed."""
    chance = random.Random(11)
    with open_file(tmp_path) as file:
        device_of(file).write([(offset, stored(chance.randbytes(PAGE_BYTES), offset + 1)) for offset in range(64)])
        device = reopened(file)[0]
        pages = {offset: decode(device.read(offset)) for offset in range(64)}
    intact = (tmp_path / "swap").read_bytes()
    wrong = found = 0
    for _ in range(150):
        flipped = bytearray(intact)
        for _ in range(chance.choice([1, 1, 50])):
            flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
        path = tmp_path / "flipped"
        path.write_bytes(flipped)
        try:
            with SqliteSwapFile(path) as file:
                area = Tier(TierLimits(0), 2, swap_file=file).areas.get("swap")
                for offset, page in pages.items() if area else ():
                    reply = load(area, offset, offset + 1, LoadMode.SHARED, require_generation=True)
                    found += reply.outcome is not Outcome.DEVICE
                    wrong += reply.page not in (None, page)
        except (SwapFileUnusable, DeviceError, ValueError):
            found += 1
        path.unlink()
    assert wrong == 0
    assert found > 100


def test_an_area_that_is_not_what_was_recorded_is_not_served(tmp_path: Path) -> None:
    """Its owner, above all, must not be another."""
    columns = (
        "client_id = 'mallory'",
        "client_epoch = 1",
        "slots = 3",
        "identity = x'00'",
        "server_epoch = 9",
        "options = '{}'",
        "name = 'x'",
        "seal = 1",
    )
    for number, what in enumerate((*columns, "name = CAST(x'ff00' AS TEXT)", "options = 1.5")):
        directory = tmp_path / str(number)
        directory.mkdir()
        with open_file(directory) as file:
            device_of(file).write([(0, stored(TEXT))])
            damage(file, "areas", what)
        with open_file(directory) as file:
            assert (file.saved_areas(), file.findings.damaged_areas) == ([], 1)
            assert file.open_area(AREA, ()).read(0) == UNWRITTEN


@pytest.mark.parametrize("size", [20, 100, 3000, 5000, 20_000])
def test_a_file_that_was_cut_off_is_refused_or_gives_only_whole_pages(tmp_path: Path, size: int) -> None:
    with open_file(tmp_path) as file:
        device_of(file).write([(offset, stored(NOISE, 1)) for offset in range(64)])
    path = tmp_path / "swap"
    os.truncate(path, size)
    try:
        with SqliteSwapFile(path) as file:
            area = Tier(TierLimits(0), 2, swap_file=file).areas["swap"]
            replies = [load(area, offset, 1, LoadMode.SHARED, require_generation=True) for offset in range(64)]
            assert {reply.page for reply in replies} <= {None, NOISE}
            assert Outcome.ERROR in {reply.outcome for reply in replies}
    except (SwapFileUnusable, DeviceError):
        pass  # refused, with everything in it


def test_a_log_that_was_torn_loses_its_last_writes_whole(tmp_path: Path) -> None:
    """As a loss of power may leave it: SQLite's own checksums end the log there."""
    file = open_file(tmp_path)
    device = device_of(file)
    for generation in range(1, 6):
        device.write([(offset, stored(NOISE, generation)) for offset in range(8)])
    log = (tmp_path / "swap-wal").read_bytes()
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "swap").write_bytes((tmp_path / "swap").read_bytes())
    (copy / "swap-wal").write_bytes(log[: len(log) - 10_000])
    file.close()
    with open_file(copy) as torn:
        _, pages = reopened(torn)
        assert torn.findings.damaged_pages == 0
    assert {page.generation for page in pages} == {4}
    assert len(pages) == 8


# A file that cannot be written


FAULTS = [
    (full, DeviceFault.FULL),
    (read_only, DeviceFault.READ_ONLY),
    (limited, DeviceFault.FULL),
    (failing, DeviceFault.IO),
]


@pytest.mark.parametrize(("broken", "fault"), FAULTS, ids=[broken.__name__ for broken, _ in FAULTS])
def test_a_store_that_the_file_refuses_is_rejected_with_a_cause_and_everything_else_stays(
    tmp_path: Path, broken: type, fault: DeviceFault
) -> None:
    """Nothing that was acknowledged is lost, the server goes on, and stores again when the file can be written."""
    with open_file(tmp_path) as file:
        tier = Tier(TierLimits(1 << 20), 1, swap_file=file, durability=Durability.WRITE_THROUGH)
        area, _ = tier.swapon(Client("host", 1), "swap", 64, AreaOptions())
        checksum = page_checksum(NOISE)
        store_many(area, range(8), [1] * 8, [NOISE] * 8, [checksum] * 8)
        with broken(file):
            replies = store_many(area, range(8, 40), [1] * 32, [NOISE] * 32, [checksum] * 32)
            assert set(replies) == {SlotReply(Outcome.REJECTED, Reason.DEVICE_ERROR)}
            assert area.counters.device_errors[fault] == 1
            assert [load(area, offset, 1, LoadMode.SHARED).page for offset in range(8)] == [NOISE] * 8
            if broken is not full:  # where an older page was, there is room for a newer one
                assert put(area, 0, 2, TEXT).outcome is Outcome.REJECTED
                assert load(area, 0, 2, LoadMode.SHARED).page == ZERO_PAGE, "the older page does not come back"
            tier.check_invariants()
        replies = store_many(area, range(8, 40), [2] * 32, [NOISE] * 32, [checksum] * 32)
        assert {reply.outcome for reply in replies} == {Outcome.STORED}
    with open_file(tmp_path) as file:
        area = Tier(TierLimits(0), 2, swap_file=file).areas["swap"]
        held = {offset: area.held(offset).generation for offset in range(64)}
        assert {offset: held[offset] for offset in range(1, 8)} == dict.fromkeys(range(1, 8), 1)
        assert {offset: held[offset] for offset in range(8, 40)} == dict.fromkeys(range(8, 40), 2)
        assert held[0] == (1 if broken is full else 0), "what could not be dropped was dropped with the next write"


@pytest.mark.parametrize(("broken", "fault"), FAULTS, ids=[broken.__name__ for broken, _ in FAULTS])
def test_what_cannot_be_recorded_changes_nothing(tmp_path: Path, broken: type, fault: DeviceFault) -> None:
    with open_file(tmp_path) as file:
        device = device_of(file)
        device.write([(offset, stored(NOISE, 1)) for offset in range(32)])
        with broken(file):
            many = [(offset, stored(NOISE, 2)) for offset in range(64)]
            with pytest.raises(DeviceError) as caught:
                device.write(many)
            assert caught.value.fault is fault
            if broken is not full:  # what only deletes needs no further page
                with pytest.raises(DeviceError):
                    file.forget_area("swap")
                with pytest.raises(DeviceError):
                    file.open_area(AREA._replace(slots=1), ["swap"])
                with pytest.raises(SwapFileUnusable, match="cannot write to the swap file"):
                    file.begin_life(1)
            assert file.saved_areas() == [AREA]
            assert {device.read(offset).generation for offset in range(32)} == {1}
        device.write(many)
        assert {device.read(offset).generation for offset in range(64)} == {2}


def test_a_slot_that_could_not_be_dropped_reads_as_unwritten_all_the_same(tmp_path: Path) -> None:
    with open_file(tmp_path) as file:
        device = device_of(file)
        device.write([(offset, stored(NOISE)) for offset in range(4)])
        with read_only(file):
            device.drop(0)
            device.drop(1)
            assert [device.read(offset) for offset in (0, 1)] == [UNWRITTEN] * 2
        device.write([(1, stored(TEXT, 2))])
        assert device.read(0) == UNWRITTEN
        assert device.read(1) == stored(TEXT, 2)
    with open_file(tmp_path) as file:
        assert [page.offset for page in reopened(file)[1]] == [1, 2, 3]


# Who may open it


def test_a_file_that_another_server_has_is_refused(tmp_path: Path) -> None:
    with open_file(tmp_path), pytest.raises(SwapFileUnusable, match="another server has it"):
        open_file(tmp_path)
    open_file(tmp_path).close()


def test_only_its_owner_may_read_what_is_other_programs_memory(tmp_path: Path) -> None:
    with open_file(tmp_path) as file:
        device_of(file).write([(0, stored(TEXT))])
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"swap": 0o600, "swap-wal": 0o600}


def test_a_file_that_is_something_else_is_refused_and_not_changed(tmp_path: Path) -> None:
    text, database, later = tmp_path / "text", tmp_path / "database", tmp_path / "later"
    text.write_bytes(b"my diary\n" * 1000)
    with sqlite3.connect(database) as other:
        other.execute("CREATE TABLE diary (entry)")
    other.close()
    SqliteSwapFile(later).close()
    with sqlite3.connect(later) as other:
        other.execute(f"PRAGMA user_version = {FORMAT + 1}")
    other.close()
    for path, message in ((text, "no swap file"), (database, "no swap file"), (later, f"format {FORMAT + 1}")):
        before = path.read_bytes()
        with pytest.raises(SwapFileUnusable, match=message):
            SqliteSwapFile(path)
        assert path.read_bytes() == before
    with pytest.raises(SwapFileUnusable, match=r"cannot open the swap file .*: .*No such file"):
        SqliteSwapFile(tmp_path / "no" / "such" / "directory")
    with pytest.raises(SwapFileUnusable):
        SqliteSwapFile(tmp_path)


def test_an_empty_file_is_made_a_swap_file(tmp_path: Path) -> None:
    """As one is that mktemp made, or one whose server died before it had written anything."""
    (tmp_path / "swap").touch()
    with open_file(tmp_path) as file:
        device_of(file).write([(0, stored(TEXT))])


def test_a_file_that_shall_survive_a_loss_of_power_is_synced_with_every_batch(tmp_path: Path) -> None:
    synced = {"NORMAL": 1, "FULL": 2}
    for survives, expected in ((False, synced["NORMAL"]), (True, synced["FULL"])):
        with SqliteSwapFile(tmp_path / str(survives), survives_power_loss=survives) as file:
            assert file._db.execute("PRAGMA synchronous").fetchone() == (expected,)
            assert file._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_an_area_with_more_slots_than_a_file_can_number_is_refused(file: SqliteSwapFile) -> None:
    with pytest.raises(DeviceError, match="slots an area"):
        file.open_area(AREA._replace(slots=(1 << 32) + 1), ())
    assert file.saved_areas() == []


def test_an_error_names_no_byte_of_a_page(file: SqliteSwapFile) -> None:
    device = device_of(file)
    with read_only(file), pytest.raises(DeviceError) as caught:
        device.write([(0, stored(TEXT))])
    assert str(caught.value) == "the device failed (read_only): attempt to write a readonly database"
    device.write([(0, stored(TEXT))])
    damage(file, "pages", "seal = 0")
    with pytest.raises(DecodeError) as damaged:
        device.read(0)
    assert "text" not in str(damaged.value)
