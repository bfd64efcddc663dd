"""A swap file whose parts contradict each other: what is believed, what is said, and that no area finds another's page.

Each part is put back to an older state, or changed, as a medium does that loses a write or brings one back.
"""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import xxhash
from tests.builders import noise_of, page_of
from tests.server.builders import put

from swaptier_server.swapfile.file import SqliteSwapFile, SwapFileUnusable
from swaptier_server.swapfile.record import Findings
from swaptier_server.tier.area import Area
from swaptier_server.tier.device import DeviceError
from swaptier_server.tier.load import load
from swaptier_server.tier.swap_file import Client
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_wire.types import EPOCH_MAX, ZERO_PAGE, AreaOptions, LoadMode, LoadReply, Outcome, Reason

pytestmark = pytest.mark.usefixtures("files_of_ours_alone")

ALICE, BOB = Client("alice/host", 1), Client("bob/host", 1)
SECRET, OTHER = page_of(1), page_of(2)
SLOTS = 8
DAMAGED = "missing or damaged: which areas had been closed is not known, nor the last server's epoch"
OLDER = "older than areas that are there: it is not the last that was written"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A swap file in which alice has a page in slots 0 to 2 of her area, and bob in slot 0 of his."""
    path = tmp_path / "swap"
    with SqliteSwapFile(path) as file:
        tier = start(file)
        alice, bob = swapon(tier, ALICE), swapon(tier, BOB)
        for offset in range(3):
            put(alice, offset, 1, SECRET)
        put(bob, 0, 1, OTHER)
    return path


def start(file: SqliteSwapFile, epoch: int = 5) -> Tier:
    return Tier(TierLimits(0), file.begin_life(epoch), swap_file=file)


def swapon(tier: Tier, client: Client) -> Area:
    return tier.swapon(client, client.id.replace("host", "swap"), SLOTS, AreaOptions())[0]


def tamper(path: Path, *statements: str) -> None:
    """Change what is in the file, as no server does."""
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)


def rows(path: Path, table: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 - from this file's own lines


def put_back(path: Path, table: str, older: list[tuple[object, ...]]) -> None:
    """Put all of *table* back to what it was."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"DELETE FROM {table}")  # noqa: S608 - from this file's own lines
        marks = ",".join("?" * len(older[0])) if older else ""
        db.executemany(f"INSERT INTO {table} VALUES ({marks})", older)  # noqa: S608 - of question marks


def pages_of(area: Area) -> list[bytes | None]:
    """What an exact load of each slot's first generation and one of any generation get."""
    return [
        load(area, offset, 1, LoadMode.SHARED, require_generation=exact).page
        for offset in range(SLOTS)
        for exact in (False, True)
    ]


def close_bobs(path: Path) -> None:
    """Close bob's area, and delete its pages."""
    with SqliteSwapFile(path) as file:
        start(file).drop_area("bob/swap")
        while file.has_rest:
            file.sweep()


Damage = Callable[[Path], None]


def sql(*statements: str) -> Damage:
    return lambda path: tamper(path, *statements)


def lose_the_record_of_bob(path: Path) -> None:
    """The server's row is of the time before his area was opened."""
    close_bobs(path)
    older = rows(path, "server")
    with SqliteSwapFile(path) as file:
        put(swapon(start(file), BOB), 0, 1, OTHER)
    put_back(path, "server", older)


def bring_bob_back(path: Path) -> None:
    """His area was closed and its pages deleted; its row and a page of it are there again."""
    older = rows(path, "areas"), rows(path, "pages")
    close_bobs(path)
    for table, was in zip(("areas", "pages"), older, strict=True):
        put_back(path, table, was)


CONTRADICTIONS: dict[str, tuple[Damage, Findings]] = {
    "an area's row is gone": (
        sql("DELETE FROM areas WHERE name = 'alice/swap'"),
        Findings(missing_areas=1, stray_pages=3),
    ),
    "all areas are gone": (sql("DELETE FROM areas"), Findings(missing_areas=2, stray_pages=4)),
    "all but the pages is gone": (
        sql("DELETE FROM areas", "DELETE FROM server"),
        Findings(stray_pages=4, record=DAMAGED),
    ),
    "a closed area is there again": (bring_bob_back, Findings(closed_areas=["bob/swap"])),
    "the record is older": (lose_the_record_of_bob, Findings(record=OLDER)),
    "the record is gone": (sql("DELETE FROM server"), Findings(record=DAMAGED)),
    "there are two records": (
        sql(
            "PRAGMA ignore_check_constraints = ON",
            "INSERT INTO server SELECT 2, epoch, last_number, areas, seal FROM server",
        ),
        Findings(record=DAMAGED),
    ),
    "the epoch is the highest": (sql("UPDATE server SET epoch = -1"), Findings(record=DAMAGED)),
    "the epoch is a text": (sql("UPDATE server SET epoch = 'x'"), Findings(record=DAMAGED)),
    "the highest number is lower": (sql("UPDATE server SET last_number = 0"), Findings(record=DAMAGED)),
    "an area is struck off": (sql("UPDATE server SET areas = substr(areas, 17)"), Findings(record=DAMAGED)),
    "the areas swap their pages": (
        sql(
            "UPDATE pages SET number = number + (9 << 32) WHERE number >> 32 = 1",
            "UPDATE pages SET number = number - (1 << 32) WHERE number >> 32 = 2",
            "UPDATE pages SET number = number - (8 << 32) WHERE number >> 32 = 10",
        ),
        Findings(damaged_pages=4),
    ),
    "the areas swap their numbers": (
        sql(
            "UPDATE areas SET number = 9 WHERE number = 1",
            "UPDATE areas SET number = 1 WHERE number = 2",
            "UPDATE areas SET number = 2 WHERE number = 9",
        ),
        Findings(damaged_areas=2),
    ),
    "an area has another's identity": (
        sql("UPDATE areas SET identity = (SELECT identity FROM areas WHERE number = 1)"),
        Findings(damaged_areas=1),
    ),
    "pages are outside their area": (
        sql("UPDATE pages SET number = number + 1000 WHERE number >> 32 = 1"),
        Findings(damaged_pages=3),
    ),
    "a page has the highest number": (
        sql("UPDATE pages SET number = 9223372036854775807 WHERE number = (2 << 32)"),
        Findings(stray_pages=1),
    ),
    "pages have numbers below all": (
        sql("UPDATE pages SET number = number | (1 << 63) WHERE number >> 32 = 1"),
        Findings(stray_pages=3),
    ),
}


@pytest.mark.parametrize(("damage", "findings"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_what_contradicts_the_rest_is_said_and_no_area_finds_anothers_page(
    path: Path, damage: Damage, findings: Findings
) -> None:
    """Not the one that is there, nor a new one of a third tenant, now or after one more restart; and it is mended."""
    damage(path)
    epochs = []
    for expected in (findings, None):
        with SqliteSwapFile(path) as file:
            tier = start(file)
            epochs.append(tier.epoch)
            areas = dict(tier.areas)
            for area in areas.values():
                own = SECRET if area.client == ALICE else OTHER if area.client == BOB else ZERO_PAGE
                assert set(pages_of(area)) <= {own, ZERO_PAGE, None}
            if expected is not None:
                assert file.findings == expected
            new = swapon(tier, Client("carol/host", 1))
            assert set(pages_of(new)) == {ZERO_PAGE, None}
            for client in (ALICE, BOB):
                if client not in {area.client for area in areas.values()}:
                    assert set(pages_of(swapon(tier, client))) == {ZERO_PAGE, None}
            while file.has_rest:
                file.sweep()
            tier.check_invariants()
    assert 5 <= epochs[0] < epochs[1] < 1 << 24
    with SqliteSwapFile(path) as file:
        left = start(file).areas
        assert file.findings == Findings(damaged_areas=findings.damaged_areas, damaged_pages=findings.damaged_pages), (
            "what is damaged stays, the rest is mended"
        )
        assert left.keys() == {"alice/swap", "bob/swap", "carol/swap"}


def test_a_file_without_contradictions_is_left_as_it_was(path: Path) -> None:
    with SqliteSwapFile(path) as file:
        tier = start(file)
        assert not file.findings
        assert [pages_of(area)[0] for area in tier.areas.values()] == [SECRET, OTHER]


def test_an_older_opening_of_the_same_area_does_not_come_back(path: Path) -> None:
    """Alice closed her area and opened it again in the same life: generation 1 is another page there."""
    older = rows(path, "pages")
    with SqliteSwapFile(path) as file:
        tier = start(file)
        tier.drop_area("alice/swap")
        put(swapon(tier, ALICE), 0, 1, noise_of(1))
    with closing(sqlite3.connect(path)) as db, db:
        number = db.execute("SELECT max(number) >> 32 FROM pages").fetchone()[0]
        for row, *columns in older:
            assert isinstance(row, int)
            renumbered = (number << 32) + row % (1 << 32)
            db.execute("INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?, ?, ?)", (renumbered, *columns))
    with SqliteSwapFile(path) as file:
        alice = start(file).areas["alice/swap"]
        assert file.findings.damaged_pages == 3
        assert SECRET not in pages_of(alice)


def test_a_host_says_which_opening_it_knows_and_gets_no_page_of_an_earlier_one(path: Path) -> None:
    """All of the file is of an older time, so nothing in it tells; a restart without that keeps the opening."""
    older = path.read_bytes()
    with SqliteSwapFile(path) as file:
        tier = start(file)
        tier.drop_area("alice/swap")
        alice = swapon(tier, ALICE)
        put(alice, 0, 1, OTHER)
        asked = (ALICE, "alice/swap", SLOTS, AreaOptions())
        known = {"seen_server_epoch": tier.epoch, "seen_incarnation": alice.incarnation}
    for is_older in (False, True):
        if is_older:
            path.write_bytes(older)
        with SqliteSwapFile(path) as file:
            tier = start(file)
            area, is_reopened = tier.swapon(*asked, **known)
            assert is_reopened is not is_older
            assert area.incarnation == known["seen_incarnation"] or is_older
            lost = LoadReply(Outcome.LOST, Reason.RESTARTED)
            exact = load(area, 0, 1, LoadMode.SHARED, require_generation=True)
            assert exact == lost if is_older else exact.page == OTHER
            assert SECRET not in pages_of(area)
            tier.check_invariants()
            assert swapon(tier, BOB).incarnation == tier.swapon(BOB, "bob/swap", SLOTS, AreaOptions())[0].incarnation


def test_of_two_areas_of_one_name_or_of_two_lives_of_a_client_the_later_one_is_open(path: Path) -> None:
    """Their rows are whole, and the record is damaged, so only they can say which of them it is."""
    older = rows(path, "areas")
    with SqliteSwapFile(path) as file:
        tier = start(file)
        tier.drop_area("alice/swap")
        put(swapon(tier, ALICE), 0, 2, SECRET)
        tier.swapon(BOB._replace(epoch=2), "bob/new", SLOTS, AreaOptions())
    put_back(path, "areas", rows(path, "areas") + older)
    tamper(path, "DELETE FROM server")
    with SqliteSwapFile(path) as file:
        tier = start(file)
        tier.check_invariants()
        assert file.findings.closed_areas == ["alice/swap", "bob/swap"]
        assert tier.areas.keys() == {"alice/swap", "bob/new"}
        assert load(tier.areas["alice/swap"], 0, 2, LoadMode.SHARED, require_generation=True).page == SECRET


def test_a_server_whose_record_is_lost_begins_above_the_servers_that_opened_its_areas(path: Path) -> None:
    """Also when the clock was set back."""
    with SqliteSwapFile(path) as file:
        swapon(start(file, 1 << 60), Client("carol/host", 1))
    tamper(path, "DELETE FROM server")
    with SqliteSwapFile(path) as file:
        assert 1 << 60 < file.begin_life(7) < EPOCH_MAX


def test_a_server_begins_below_the_highest_epoch_when_none_is_above_it(path: Path) -> None:
    """Hosts take a lower one for a restart, too. It can be recorded only by a clock that is five centuries ahead."""
    with SqliteSwapFile(path) as file:
        assert file.begin_life(EPOCH_MAX) == EPOCH_MAX
    with SqliteSwapFile(path) as file:
        assert file.begin_life(7) == 7
        assert file.findings.record == f"its epoch is {EPOCH_MAX}, above which there is none: 7 is taken"
    with SqliteSwapFile(path) as file:
        assert 7 < file.begin_life(7) < EPOCH_MAX


def test_a_part_of_a_file_that_stands_where_another_should_is_refused_or_misses_pages(tmp_path: Path) -> None:
    """Never a traceback: SQLite finds some, the order of the rows tells others, and the seals tell the rest."""
    path = tmp_path / "swap"
    with SqliteSwapFile(path) as file:
        tier = start(file)
        for client in (ALICE, BOB):
            area = tier.swapon(client, client.id, 64, AreaOptions())[0]
            for offset in range(64):
                put(area, offset, 1, page_of(offset + 100 * (client == BOB)))
    intact = path.read_bytes()
    blocks = [intact[at : at + 4096] for at in range(0, len(intact), 4096)]
    refused = 0
    for source in range(1, len(blocks)):
        for target in range(1, len(blocks)):
            if source == target or blocks[source][0] != blocks[target][0]:
                continue
            path.write_bytes(b"".join(blocks[source] if at == target else block for at, block in enumerate(blocks)))
            try:
                with SqliteSwapFile(path) as file:
                    for name, area in start(file).areas.items():
                        for offset in range(64):
                            own = page_of(offset + 100 * (name == BOB.id))
                            reply = load(area, offset, 1, LoadMode.SHARED)
                            assert reply.page in (None, own, ZERO_PAGE)
            except (SwapFileUnusable, DeviceError):
                refused += 1
    assert refused > 0


# The older format


OLD_TABLES = """
    CREATE TABLE server (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL);
    CREATE TABLE areas (
        number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, client_id TEXT NOT NULL,
        client_epoch INTEGER NOT NULL, slots INTEGER NOT NULL, options TEXT NOT NULL, seal INTEGER NOT NULL
    );
    DROP TABLE pages;
    CREATE TABLE pages (
        number INTEGER PRIMARY KEY, generation INTEGER NOT NULL, checksum INTEGER NOT NULL, kind INTEGER NOT NULL,
        seal INTEGER NOT NULL, body BLOB NOT NULL
    );
    PRAGMA user_version = 1;
"""


def sealed(data: bytes) -> int:
    seal = xxhash.xxh3_64_intdigest(data)
    return seal - (1 << 64) if seal >= 1 << 63 else seal


@pytest.fixture
def old(path: Path) -> Path:
    """The same file as the previous format had it."""
    areas, pages = rows(path, "areas"), rows(path, "pages")
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript("DROP TABLE server; DROP TABLE areas;" + OLD_TABLES)
        db.execute("INSERT INTO server VALUES (1, 5)")
        for number, _identity, _epoch, *columns, _seal in areas:
            seal = sealed(repr((number, *columns)).encode())
            db.execute("INSERT INTO areas VALUES (?, ?, ?, ?, ?, ?, ?)", (number, *columns, seal))
        for number, generation, checksum, kind, _seal, body in pages:
            assert isinstance(body, bytes)
            numbers = (number, generation, checksum, kind, len(body))
            seal = sealed(b"".join(one.to_bytes(8, "little", signed=True) for one in numbers if isinstance(one, int)))
            row = (number, generation, checksum, kind, seal, body)
            db.execute("INSERT INTO pages VALUES (?, ?, ?, ?, ?, ?)", row)
    return path


def test_a_file_of_the_previous_format_keeps_its_pages_and_is_the_new_ones_with_the_first_server(old: Path) -> None:
    for life in range(3):
        with SqliteSwapFile(old) as file:
            tier = start(file)
            assert not file.findings
            assert tier.epoch > 5
            assert [pages_of(tier.areas[name])[0] for name in ("alice/swap", "bob/swap")] == [SECRET, OTHER]
            put(tier.areas["bob/swap"], 1 + life, 1, OTHER)
            put(swapon(tier, Client("carol/host", life + 1)), 0, 1, noise_of(life))
    with SqliteSwapFile(old) as file:
        tier = start(file)
        assert pages_of(tier.areas["bob/swap"])[:8] == [OTHER] * 8
        assert pages_of(tier.areas["carol/swap"])[0] == noise_of(2)
    assert [row[1] == b"" for row in rows(old, "areas")] == [True, True, False]


@pytest.mark.parametrize(("is_old", "says"), [(False, 1), (True, 2), (False, 3)])
def test_a_file_that_says_another_format_than_it_has_is_refused_and_not_changed(
    request: pytest.FixtureRequest, path: Path, is_old: bool, says: int
) -> None:
    """It would be made anew by what it does not have."""
    if is_old:
        request.getfixturevalue("old")
    tamper(path, f"PRAGMA user_version = {says}")
    areas = rows(path, "areas")
    with pytest.raises(SwapFileUnusable):
        SqliteSwapFile(path)
    assert rows(path, "areas") == areas


def test_a_file_of_the_previous_format_is_changed_by_no_look_at_it(old: Path) -> None:
    before = old.read_bytes()
    SqliteSwapFile(old).close()
    with closing(sqlite3.connect(old)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
    assert len(old.read_bytes()) == len(before)


@pytest.mark.parametrize(
    ("change", "findings"),
    [
        (
            "UPDATE server SET epoch = -1",
            Findings(record=f"its epoch is {EPOCH_MAX}, above which there is none: 5 is taken"),
        ),
        ("DELETE FROM server", Findings(record=DAMAGED)),
        ("UPDATE areas SET client_id = 'mallory' WHERE number = 1", Findings(damaged_areas=1)),
        ("UPDATE pages SET number = number + 1 WHERE number = 2", Findings()),
        ("UPDATE sqlite_sequence SET seq = 9223372036854775807", Findings()),
        ("DELETE FROM sqlite_sequence", Findings()),
        ("DELETE FROM areas WHERE number = 2", Findings()),
    ],
)
def test_a_damaged_file_of_the_previous_format_is_mended_too(old: Path, change: str, findings: Findings) -> None:
    tamper(old, change)
    with SqliteSwapFile(old) as file:
        tier = start(file)
        assert file.findings == findings
        for client in (BOB, Client("carol/host", 1)):
            if client.id.replace("host", "swap") not in tier.areas:
                assert set(pages_of(swapon(tier, client))) == {ZERO_PAGE, None}
    assert json.loads(str(rows(old, "areas")[0][7]))["writeback"] is True
