"""One emulated host against a tier in the same process: what is really wrong is found, and nothing else is.

The tier is the real one, behind a link that answers a turn of the loop later. Saboteurs stand between the two and spoil
some of the answers: the negative controls of the whole chain from fault to verdict.
"""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.loadgen.builders import host_spec

from swaptier_client.mm.effects import Load, Request, RequestReply, Store
from swaptier_client.mm.policy import POLICIES
from swaptier_loadgen.cli.statuses import exit_status
from swaptier_loadgen.host.checked_host import CheckedHost
from swaptier_loadgen.host.content import Contents, cut
from swaptier_loadgen.host.emulated import EmulatedHost
from swaptier_loadgen.host.latency import LatencyRecorder
from swaptier_loadgen.host.messages import HostSpec
from swaptier_loadgen.host.oracle import Corruption, Fate, Oracle
from swaptier_loadgen.host.report import Ended, HostReport
from swaptier_loadgen.lockstep.tiers import InProcessTiers
from swaptier_loadgen.race.results import RunSummary, summarise
from swaptier_loadgen.race.verdict import Verdict
from swaptier_server.tier.swap_file import Client
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_wire.errors import TierUnreachable
from swaptier_wire.types import ZERO_PAGE, AreaOptions, LoadReply, Outcome, Reason

CONTENTS = Contents(3, list(cut(b"what real memory looks like " * 1000)))
SABOTAGE_EVERY = 7

Saboteur = Callable[[Request, RequestReply], RequestReply]


def honest(_request: Request, reply: RequestReply) -> RequestReply:
    return reply


class InProcessLink:
    """The driver's view of a tier in this process; each answer comes one turn of the loop later."""

    def __init__(self, tiers: InProcessTiers, saboteur: Saboteur) -> None:
        self._tiers = tiers
        self._saboteur = saboteur
        self.has_room = True
        self.epoch_changes = 0

    async def room(self) -> None:
        """There always is."""

    def submit(self, effect: Request) -> asyncio.Future[RequestReply]:
        """Apply at once, answer later."""
        reply: asyncio.Future[RequestReply] = asyncio.get_running_loop().create_future()
        try:
            answer = self._saboteur(effect, self._tiers.perform_one(effect))
        except TierUnreachable as error:
            reply.set_exception(error)
        else:
            asyncio.get_running_loop().call_soon(lambda: reply.cancelled() or reply.set_result(answer))
        return reply


async def run(what: HostSpec, saboteur: Saboteur = honest) -> tuple[HostReport, RunSummary]:
    """Run one host to its end and return its last report and what it comes to."""
    tier = Tier(TierLimits(pool_bytes_max=1 << 20), epoch=1)
    options = AreaOptions(device_free_on_read=POLICIES[what.policy].device_free_on_read)
    area, _ = tier.swapon(Client("c", 1), "a", what.slots, options)
    host = EmulatedHost(what, CONTENTS, InProcessLink(InProcessTiers([area]), saboteur))
    await host.run()
    await host.exit_processes()
    leaked = tier.swapoff(Client("c", 1), "a")
    report = replace(host.final_report(), ended=Ended.FINISHED, leaked_pages=leaked)
    return report, summarise(what.policy, [report])


@pytest.mark.parametrize("policy", [name for name, policy in POLICIES.items() if policy.is_safe])
async def test_a_safe_policy_loses_nothing_and_leaves_nothing_behind(policy: str) -> None:
    """Installs fail, threads collide, pages are discarded: every byte read is right, and the tier ends up empty."""
    report, summary = await run(host_spec(policy))
    assert summary.verdict is Verdict.SAFE
    assert report.counter("install_failures_owed") > 0
    assert report.pages_checked > 2000
    assert report.leaked_pages == 0
    assert report.duplicate_bytes == 0
    assert sum(report.owed_fates.values()) == 0


async def test_in_exclusive_each_page_a_failed_install_took_is_accounted_for() -> None:
    """Owed = read back wrong + discarded; nothing else goes wrong, and nothing wrong is left unexplained."""
    report, summary = await run(host_spec("exclusive"))
    assert summary.verdict is Verdict.AS_SPECIFIED
    owed = report.counter("install_failures_owed")
    assert owed > 20
    assert owed == report.owed_fates[Fate.WRONG] + report.owed_fates[Fate.DISCARDED]
    assert summary.corrupted_pages == report.owed_fates[Fate.WRONG]
    assert report.corruptions_without_install_failure == 0


async def test_the_same_seed_makes_the_same_accesses_and_the_same_findings() -> None:
    """In one process, without preemptions (they end in time, too), a race repeats exactly."""
    (one, _), (other, _) = [await run(host_spec("exclusive", seed=9, preemption_rate=0.0)) for _ in range(2)]
    assert one.counters == other.counters
    assert one.corruptions_by_kind == other.corruptions_by_kind
    assert one.examples == other.examples


def spoil(answer: Callable[[LoadReply], LoadReply]) -> Saboteur:
    """Spoil every seventh page that the pool answers with."""
    loads = itertools.count(1)

    def saboteur(request: Request, reply: RequestReply) -> RequestReply:
        is_page = isinstance(request, Load) and isinstance(reply, LoadReply) and reply.outcome is Outcome.HIT
        if is_page and next(loads) % SABOTAGE_EVERY == 0:
            assert isinstance(reply, LoadReply)
            return answer(reply)
        return reply

    return saboteur


def flip_a_bit(reply: LoadReply) -> LoadReply:
    assert reply.page is not None
    return reply._replace(page=reply.page[:-1] + bytes([reply.page[-1] ^ 1]))


@pytest.mark.parametrize(
    ("answer", "corruption"),
    [
        (lambda reply: reply._replace(outcome=Outcome.DEVICE, page=ZERO_PAGE), Corruption.DEVICE_ZERO),
        (flip_a_bit, Corruption.UNRECOGNISED),
    ],
    ids=["zeros from the device", "a flipped bit"],
)
async def test_a_safe_policy_on_a_tier_that_lies_is_reported_as_corrupted(
    answer: Callable[[LoadReply], LoadReply], corruption: Corruption
) -> None:
    """Negative control: one wrong answer is one finding, status 1."""
    report, summary = await run(host_spec("shared", install_failure_rate=0.0), spoil(answer))
    assert summary.verdict is Verdict.CORRUPTED
    assert exit_status([summary]) == 1
    assert report.corruptions_by_kind[corruption] == summary.corrupted_pages > 0
    assert report.corruptions_without_install_failure == summary.corrupted_pages
    assert str(corruption) in report.examples[0]


async def test_a_tier_that_returns_the_previous_version_is_caught() -> None:
    """Negative control: the tier keeps a page's older bytes and answers with them, as an old primary would."""
    previous: dict[int, bytes] = {}
    current: dict[int, bytes] = {}

    def saboteur(request: Request, reply: RequestReply) -> RequestReply:
        offset = request.entry.offset
        if isinstance(reply, LoadReply) and reply.page is not None and offset in previous:
            return reply._replace(page=previous.pop(offset))
        page = getattr(request, "page", None)
        if page is not None:
            previous[offset], current[offset] = current.get(offset, page), page
        return reply

    report, summary = await run(host_spec("shared", install_failure_rate=0.0), saboteur)
    assert summary.verdict is Verdict.CORRUPTED
    assert report.corruptions_by_kind[Corruption.TIER_FOREIGN] + report.corruptions_by_kind[Corruption.TIER_OLD] > 0


async def test_a_page_the_tier_cannot_read_is_a_told_loss_and_no_corruption() -> None:
    """Negative control: the safe policy lost pages and said so, status 1."""
    lost = spoil(lambda reply: reply._replace(outcome=Outcome.ERROR, reason=Reason.CHECKSUM, page=None, checksum=0))
    report, summary = await run(host_spec("shared", install_failure_rate=0.0), lost)
    assert summary.verdict is Verdict.LOST
    assert report.detected_losses_by_reason["crc"] == summary.detected_losses > 0
    assert summary.corrupted_pages == 0
    assert exit_status([summary]) == 1


async def test_pages_the_pool_refuses_are_right_on_the_device() -> None:
    """A pool of nothing: everything goes to the device and comes back right, even under a policy that takes."""
    tier = Tier(TierLimits(pool_bytes_max=0), epoch=1)
    area, _ = tier.swapon(Client("c", 1), "a", 128, AreaOptions())
    host = EmulatedHost(host_spec("exclusive"), CONTENTS, InProcessLink(InProcessTiers([area]), honest))
    await host.run()
    report = host.final_report()
    assert report.counter("pswpin") > report.counter("zswpin")
    assert report.corruptions_without_install_failure == 0


async def test_a_host_told_to_stop_sweeps_nothing_and_says_what_was_never_read() -> None:
    """Every owed page has a fate, whenever the run ends."""
    tier = Tier(TierLimits(pool_bytes_max=1 << 20), epoch=1)
    area, _ = tier.swapon(Client("c", 1), "a", 128, AreaOptions())
    what = host_spec("exclusive", ops=None, duration_seconds=600.0, install_failure_rate=0.3)
    loads = itertools.count()

    def stop_after_a_while(request: Request, reply: RequestReply) -> RequestReply:
        host.is_stopping = host.is_stopping or next(loads) > 1000
        return reply

    host = EmulatedHost(what, CONTENTS, InProcessLink(InProcessTiers([area]), stop_after_a_while))
    await host.run()
    report = host.final_report()
    assert sum(report.owed_fates.values()) == report.counter("install_failures_owed")


async def test_nothing_read_after_the_tier_started_anew_counts() -> None:
    """The race ends as unreachable at the next page, whatever its bytes."""
    tier = Tier(TierLimits(pool_bytes_max=1 << 20), epoch=1)
    area, _ = tier.swapon(Client("c", 1), "a", 128, AreaOptions())
    loads = itertools.count()

    def forget(request: Request, reply: RequestReply) -> RequestReply:
        if isinstance(reply, LoadReply) and next(loads) > 100:
            host.on_tier_restarted(0)
            return LoadReply(Outcome.DEVICE, page=ZERO_PAGE)
        return reply

    host = EmulatedHost(host_spec("shared"), CONTENTS, InProcessLink(InProcessTiers([area]), forget))
    with pytest.raises(ExceptionGroup) as ended:
        await host.run()
    assert ended.group_contains(TierUnreachable)
    assert sum(host.final_report().corruptions_by_kind.values()) == 0


@pytest.mark.parametrize(("is_lying", "verdict"), [(False, Verdict.TELLS), (True, Verdict.LOST)])
async def test_a_restart_excuses_the_loss_of_what_the_tier_had_alone_and_of_nothing_else(
    *, is_lying: bool, verdict: Verdict
) -> None:
    """A tier that starts anew once and from then on calls pages lost that it was given since has lost them itself."""
    tier = Tier(TierLimits(pool_bytes_max=1 << 20), epoch=1)
    area, _ = tier.swapon(Client("c", 1), "a", 128, AreaOptions())
    tiers = InProcessTiers([area])
    loads = itertools.count()
    stored_since: set[tuple[int, int]] = set()

    def restart_once(request: Request, reply: RequestReply) -> RequestReply:
        nonlocal tier
        if isinstance(request, Store) and tier.epoch == 2:
            stored_since.add((request.entry.offset, request.generation))
        if not isinstance(request, Load):
            return reply
        if next(loads) == 100:
            tier = Tier(tier.limits, epoch=2)
            tiers.areas = (tier.swapon(Client("c", 1), "a", 128, AreaOptions(), seen_server_epoch=1)[0],)
            link.epoch_changes += 1
            host.on_tier_restarted(0)
        is_given_since = (request.entry.offset, request.generation) in stored_since
        if is_lying and is_given_since and next(loads) % SABOTAGE_EVERY == 0:
            return LoadReply(Outcome.LOST, reason=Reason.RESTARTED)
        return reply

    link = InProcessLink(tiers, restart_once)
    host = EmulatedHost(host_spec("shared", patience_seconds=1.0), CONTENTS, link)
    await host.run()
    report = replace(host.final_report(), ended=Ended.FINISHED)
    assert 0 < report.lost_with_tier <= report.detected_losses_by_reason["epoch"]
    assert (report.lost_with_tier == report.detected_losses_by_reason["epoch"]) is not is_lying
    summary = summarise("shared", [report])
    assert summary.verdict is verdict and summary.corrupted_pages == 0


async def test_a_stale_answer_names_the_page_that_is_in_the_slot_and_none_that_was_discarded() -> None:
    """Else that page's next version, lost in another way, would be looked up under the name of the old one."""
    answer: asyncio.Future[RequestReply] = asyncio.get_running_loop().create_future()
    asked = asyncio.Event()

    class HoldingLink(InProcessLink):
        """Answers loads when the test does."""

        def submit(self, effect: Request) -> asyncio.Future[RequestReply]:
            if not isinstance(effect, Load):
                return super().submit(effect)
            asked.set()
            return answer

    for is_discarded in (False, True):
        answer, asked = asyncio.get_running_loop().create_future(), asyncio.Event()
        area, _ = Tier(TierLimits(pool_bytes_max=1 << 20), epoch=1).swapon(Client("c", 1), "a", 128, AreaOptions())
        what = host_spec("exclusive", install_failure_rate=0.0, preemption_rate=1.0)
        link = HoldingLink(InProcessTiers([area]), honest)
        host = CheckedHost(what, 0, Oracle(CONTENTS.page), LatencyRecorder(), [link])
        process = host.mm.spawn()
        await host.access(process, 0, write=True)
        await host.swap_out_all()
        reader = asyncio.create_task(host.access(process, 0, write=False))
        await asked.wait()
        if is_discarded:
            await host.discard(process, 0)
        answer.set_result(LoadReply(Outcome.DEVICE, page=ZERO_PAGE))
        await asyncio.sleep(0)
        assert not reader.done(), "it is preempted before it maps what it read"
        assert bool(host._stale) is not is_discarded
        await reader


async def test_what_was_read_ahead_while_its_page_was_discarded_is_reclaimed_before_leaks_are_counted() -> None:
    """A busy folio stays in the swapcache when its last user goes; that is no leak, since reclaim will find it."""
    area, _ = Tier(TierLimits(pool_bytes_max=1 << 20), epoch=1).swapon(Client("c", 1), "a", 128, AreaOptions())
    what = host_spec("shared", readahead="vma", install_failure_rate=0.0, preemption_rate=0.0)
    host = CheckedHost(
        what, 0, Oracle(CONTENTS.page), LatencyRecorder(), [InProcessLink(InProcessTiers([area]), honest)]
    )
    process = host.mm.spawn()
    for address in range(3):
        await host.access(process, address, write=True)
    child = await host.fork(process)
    await host.swap_out_all()
    reader = asyncio.create_task(host.access(process, 0, write=False))
    await asyncio.sleep(0)
    for sharer in (process, child):
        await host.discard(sharer, 1)
    await reader
    for sharer in (process, child):
        await host.exit(sharer)
    assert area.stored_pages == 1
    await host.reclaim_leftovers()
    assert area.stored_pages == host.mm.resident_pages == 0
