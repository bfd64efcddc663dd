"""A short campaign with every test run, and proof that a campaign can fail. `make fuzz` runs the long one."""

from pathlib import Path

import grpc
import pytest
from tests.fuzz import campaign
from tests.fuzz.campaign import Outcome, run
from tests.fuzz.inputs import PALETTE, Input, Kind, make
from tests.fuzz.judge import Wrong, check_answer, check_status

from swaptier.v1 import swaptier_pb2 as pb
from swaptier_wire.checksum import page_checksum

SEED = 20240325
INPUTS = 3000
SABOTAGED_INPUTS = 2000
"""Enough to meet each sabotage; the campaign ends with the first."""

SAID = {
    *("STORED", "DEVICE", "DEVICE/POOL_LIMIT", "DEVICE/AREA_LIMIT", "REJECTED/AREA_LIMIT"),
    *("HIT", "SAME_FILLED", "MISS", "STALE_GENERATION", "CLAIMED", "LEASE_ENDED", "INVALIDATED"),
    *("ERROR/CHECKSUM", "LOST/NEVER_STORED", "LOST/FREED", "LOST/RESTARTED"),
}
"""Of the outcomes of a slot, those that even a short campaign meets dozens of times."""

NO_WALLS = "import swaptier_server.rpc.service as service; service.qualified = lambda tenant, name: name"
"""Names are not kept apart by tenants: whoever says the victim's is the victim."""
NO_GUARD = """
import swaptier_server.rpc.service as service
def apply(area, request, apply=service.apply):
    if request.invalidate is not None and len(request.invalidate.offsets) == 3:
        raise ZeroDivisionError
    return apply(area, request)
service.apply = apply
"""
"""A defect in a corner: INTERNAL, and a traceback in the log."""


HANGS = """
import asyncio
import swaptier_server.rpc.service as service
async def lookup(self, request, context):
    await asyncio.Event().wait()
service.SwapTierService.Lookup = lookup
"""
"""One method has no end."""
CRASHES = """
import os
import swaptier_server.rpc.service as service
async def acknowledge(self, request, context):
    os._exit(3)
service.SwapTierService.Acknowledge = acknowledge
"""
"""One method ends the process."""
FORGETS = """
from swaptier_server.tier import device
device.MemoryDevice.read = lambda self, offset: device.UNWRITTEN
"""
"""What was written back is gone."""


def sabotaged(code: str) -> tuple[str, str]:
    return ("-c", f"{code}\nimport sys; from swaptier_server.__main__ import main; sys.exit(main())")


async def test_nothing_that_is_thrown_does_any_harm(tmp_path: Path) -> None:
    """Bytes, frames, messages and requests: no crash, no hang, no page of another tenant, who reads on untouched."""
    outcome = await run(tmp_path, SEED, range(INPUTS))
    assert not outcome.wrongs, f"{outcome.wrongs}; to repeat: make fuzz SEED={SEED} INPUTS={INPUTS}"
    assert outcome.thrown.total() == INPUTS
    assert set(outcome.thrown) == set(Kind)
    assert outcome.pages, "the attacker loads what it stored, so a page of another's would be noticed"
    assert outcome.victim_loads
    assert outcome.outcomes.keys() >= SAID, "what is never said is never tried"


@pytest.mark.parametrize(
    ("sabotage", "says"),
    [
        (NO_WALLS, "victim"),
        (NO_GUARD, "status INTERNAL|ended over a message"),
        (HANGS, "no end within"),
        (CRASHES, "nobody listens any more|the server ended with status"),
        (FORGETS, "the victim's pages are not what it stored"),
    ],
    ids=["names are not kept apart", "a defect in a corner", "a hang", "a crash", "a device that forgets"],
)
async def test_a_server_with_a_hole_in_it_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sabotage: str, says: str
) -> None:
    """A campaign that cannot fail proves nothing."""
    monkeypatch.setattr(campaign, "HANG_SECONDS", 2.0)  # a campaign waits longer, for busy machines
    outcome = await run(tmp_path, SEED, range(SABOTAGED_INPUTS), program=sabotaged(sabotage))
    assert any(word in wrong for wrong in outcome.wrongs for word in says.split("|")), outcome.wrongs


def test_memory_that_grows_with_every_input_is_a_slope_and_a_warm_up_is_none() -> None:
    """Least squares over what came after the server had settled."""
    numbers = range(0, 100_001, 2000)
    settling = [(number, 50_000_000 + min(number, 30_000) * 900) for number in numbers]
    assert abs(Outcome(memory=settling).slope) < 1
    assert round(Outcome(memory=[(number, size + 250 * number) for number, size in settling]).slope) == 250
    assert Outcome().slope == 0


def test_an_input_is_the_same_whatever_ran_before_it() -> None:
    """So a failure is found again by its seed and its number."""
    assert make(1, 77, ()) == make(1, 77, ())
    assert len({make(1, number, ()).content for number in range(300)}) > 250
    assert make(1, 77, ()) != make(2, 77, ())


def answer(page: bytes, checksum: int | None = None) -> pb.LoadResponse:
    result = pb.LoadResult(
        outcomes=[pb.OUTCOME_HIT], checksums=[page_checksum(page) if checksum is None else checksum], pages=page
    )
    return pb.LoadResponse(result=result)


def test_the_judge_knows_whose_page_it_is() -> None:
    """The attacker's own are fine; another's, a mixture and one too many are not."""
    secret = b"s" * 16
    own, foreign = PALETTE[3], b"foreign".ljust(4096, b"f")
    assert check_answer(answer(own), secret) == 1
    for bad in (answer(foreign), answer(own, checksum=1), answer(own + own), answer(secret * 256)):
        with pytest.raises(Wrong):
            check_answer(bad, secret)
    with pytest.raises(Wrong, match="a word came back"):
        check_answer(pb.LoadResponse(result=pb.LoadResult(fill_words=[12345])), secret)


@pytest.mark.parametrize(
    ("thrown", "code", "is_fine"),
    [
        (Input(0, Kind.REQUEST, b"", "Stat"), grpc.StatusCode.NOT_FOUND, True),
        (Input(0, Kind.REQUEST, b"", "Stat"), grpc.StatusCode.INTERNAL, False),
        (Input(0, Kind.REQUEST, b"", "Stat"), grpc.StatusCode.UNAVAILABLE, False),
        (Input(0, Kind.MESSAGE, b"\xff", "Stat"), grpc.StatusCode.INVALID_ARGUMENT, True),
        (Input(0, Kind.MESSAGE, b"\xff", "Stat"), grpc.StatusCode.OK, False),
        (Input(0, Kind.REQUEST, b"", "Stat", has_token=False), grpc.StatusCode.UNAUTHENTICATED, True),
        (Input(0, Kind.REQUEST, b"", "Stat", has_token=False), grpc.StatusCode.OK, False),
    ],
)
def test_the_judge_knows_a_refusal_from_a_failure(thrown: Input, code: grpc.StatusCode, is_fine: bool) -> None:
    """A server may refuse what it likes, and must not say that it is not well."""
    if is_fine:
        check_status(thrown, code)
    else:
        with pytest.raises(Wrong):
            check_status(thrown, code)
