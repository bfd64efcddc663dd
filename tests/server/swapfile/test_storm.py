"""The corruption storm: whatever became of a swap file, an answer is right bytes or none, or the start is refused.

`make test` runs 200 cases, `make soak` 2,500 of another seed. A case that fails ends with the command that repeats it.
"""

import json
import os
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest
from tests.server.host import Host
from tests.server.swapfile.storm.case import Case, run_case
from tests.server.swapfile.storm.damage import BY_SQL, DAMAGES, Struck
from tests.server.swapfile.storm.world import snapshot
from tests.server.swapfile.test_disk_trouble import served
from tests.server.test_main import FREE, run

SEED: Final = int(os.environ.get("SOAK_SEED", "1"))
CASES: Final = 200
SHARE: Final = 50
"""Of a process: they have a world each."""
SOAK_CASES: Final = int(os.environ.get("SOAK_STORM", "2500"))


@pytest.mark.parametrize("first", range(0, CASES, SHARE))
def test_a_damaged_file_gives_right_bytes_an_error_or_a_refused_start(first: int) -> None:
    """Of stopped, killed and running servers, under every mode of load, and again after a restart."""
    counts: Counter[str] = Counter()
    for number in range(first, first + SHARE):
        run_case(Case(1, number), counts)
    assert counts["refused"] and counts["ERROR"] and counts["running"] and counts["killed"] and counts["stopped"]


@pytest.mark.parametrize("names", [("stale_pages", "swap_frames"), ("page_twice",)])
async def test_a_server_process_stands_what_is_done_to_its_file(tmp_path: Path, names: Sequence[str]) -> None:
    """While it runs, where that is done by bytes, and before the next one starts: no other bytes and no traceback."""
    host, path = Host(slots=64), tmp_path / "swap"
    write_through = "--device", f"sqlite:{path}", "--durability", "write-through"
    async with served(host, *write_through, "--pool-limit", "100000") as server:
        for generation in (1, 2):
            await host.store(range(64), generation)
            older = snapshot(path)
        await host.store(range(32), 3)
        chance = random.Random(0)
        struck = Struck(chance, path, (older,), older, None)
        for name in set(names) - set(BY_SQL):
            DAMAGES[name](struck)
        await host.missing()
        server.process.kill()
        assert "Traceback" not in server.process.communicate()[1]
    for name in names:
        DAMAGES[name](struck)
    command = *FREE, *write_through
    async with AsyncExitStack() as stack:
        try:
            server = await stack.enter_async_context(served(host, *write_through))
        except json.JSONDecodeError:  # it ended before it was ready
            refused = run(*command)
            assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1), refused
            return
        await host.missing()
        status, _, log = server.end()
    assert status == 0
    assert "Traceback" not in str(log)


@pytest.mark.soak
def test_the_storm_of_a_soak() -> None:
    """Every kind of damage there is, many times."""
    counts: Counter[str] = Counter()
    for number in range(SOAK_CASES):
        run_case(Case(SEED + 1, number), counts)
    print(f"{SOAK_CASES} cases of seed {SEED + 1}: {counts['refused']} starts refused, {counts['ERROR']} loads ERROR")  # noqa: T201 - the soak shows what it did
    assert set(DAMAGES) <= counts.keys()
