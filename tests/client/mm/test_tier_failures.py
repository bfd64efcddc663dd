"""The tier fails at every request of every path, in every way: nothing is left behind, and no page turns into another.

A scenario is run once without a failure to count its requests, and then once for each request and each way to fail.
"""

from collections.abc import Callable
from itertools import product

import pytest
from tests.client.mm.stage import Stage, TierFault, no_fault

from swaptier_client.mm import backing
from swaptier_client.mm.access import access_page, write_page
from swaptier_client.mm.counters import DetectedLoss, InstallFailure
from swaptier_client.mm.effects import Load, Path, Request
from swaptier_client.mm.errors import PageLost
from swaptier_client.mm.folio import Folio, Process
from swaptier_client.mm.policy import POLICIES
from swaptier_client.mm.process import exit_process, fork, zap
from swaptier_client.mm.swapoff import swapoff
from swaptier_loadgen.lockstep.driver import TaskState
from swaptier_loadgen.measure.specification import page_version, swap_out_everything
from swaptier_wire.checksum import page_checksum
from swaptier_wire.errors import SwapTierError
from swaptier_wire.types import ZERO_PAGE, LoadMode, LoadReply, Outcome

SAFE = [name for name, policy in POLICIES.items() if policy.is_safe]
PAGES = 3


class Story:
    """A process with PAGES pages in the tier, and what each page of each process was last written."""

    def __init__(self, policy: str) -> None:
        self.stage = Stage(POLICIES[policy])
        self.host = self.stage.host
        self.process = self.host.spawn()
        self.written: dict[tuple[int, int], bytes] = {}
        self.stage.do(self.write_all(self.process, version=1))
        self.stage.do(swap_out_everything(self.host))
        self.stage.requests.clear()

    def read(self, process: Process, address: int) -> Path[None]:
        """Read a page; it must be what was written."""
        content = yield from self.stage.read(process, address)
        assert content == self.written.get((process.pid, address), ZERO_PAGE)

    def write_all(self, process: Process, *, version: int) -> Path[None]:
        """Write every page."""
        for address in range(PAGES):
            yield from access_page(self.host, process, address, write=True)
            write_page(self.host, process, address, page_version(address, version))
            self.written[process.pid, address] = page_version(address, version)

    def fork(self, parent: Process) -> Path[Process]:
        """Fork; the child's pages are the parent's."""
        child = yield from fork(self.host, parent)
        self.written.update({(child.pid, at): self.written[parent.pid, at] for at in range(PAGES)})
        return child

    def zap(self, process: Process, addresses: list[int]) -> Path[None]:
        """Discard pages: whatever the tier is told, the process has seen the last of them."""
        zapping = zap(self.host, process, addresses)
        for address in addresses:
            self.written.pop((process.pid, address), None)
        yield from zapping


Scenario = Callable[[Story], Path[object]]


def fault_in(story: Story) -> Path[None]:
    """Read every page, then write every page."""
    for address in range(PAGES):
        yield from story.read(story.process, address)
    yield from story.write_all(story.process, version=2)


def fault_in_with_failed_installs(story: Story) -> Path[None]:
    """Read every page; each install fails once."""
    for address in range(PAGES):
        story.stage.failures.arm(address, InstallFailure.LOCK_CONTENDED)
        yield from story.read(story.process, address)


def swap_out_again(story: Story) -> Path[None]:
    """Write every page and reclaim them, twice."""
    for version in (2, 3):
        yield from story.write_all(story.process, version=version)
        yield from swap_out_everything(story.host)


def share_and_write(story: Story) -> Path[None]:
    """Fork; both read, the child writes, everything is reclaimed, the child reads and exits."""
    child = yield from story.fork(story.process)
    for address in range(PAGES):
        yield from story.read(story.process, address)
        yield from story.read(child, address)
    yield from story.write_all(child, version=2)
    yield from swap_out_everything(story.host)
    yield from story.read(child, 0)
    yield from exit_process(story.host, child)


def discard(story: Story) -> Path[None]:
    """Zap two pages, one of them mapped."""
    yield from story.read(story.process, 0)
    yield from story.zap(story.process, [0, 1])


def leave(story: Story) -> Path[None]:
    """Fork, read one page, and exit, both."""
    child = yield from story.fork(story.process)
    yield from story.read(child, 0)
    yield from exit_process(story.host, story.process)
    yield from exit_process(story.host, child)


def swap_off(story: Story) -> Path[None]:
    """Take the device away."""
    yield from swapoff(story.host, story.host.devices[0])


SCENARIOS: tuple[Scenario, ...] = (
    fault_in,
    fault_in_with_failed_installs,
    swap_out_again,
    share_and_write,
    discard,
    leave,
    swap_off,
)


def fail_at(stage: Stage, index: int, fault: TierFault, *, for_good: bool) -> Callable[[Request], TierFault | None]:
    """Let the request with that index fail, or that one and all after it."""

    def choose(_request: Request) -> TierFault | None:
        at = len(stage.requests) - 1
        return fault if at == index or (for_good and at > index) else None

    return choose


def run_checked(stage: Stage, path: Path[object]) -> Exception | None:
    """Run *path* alone, recounting the host after every step; return the error it ended with."""
    task = stage.spawn("it", path)
    while task.state is not TaskState.DONE:
        stage.lockstep.step(task)
        stage.check()
    return task.error


def may_have_lost_a_page(stage: Stage, fault: TierFault) -> bool:
    """Tell whether an exclusive load was applied and its reply lost, or a page could not be stored back."""
    on_the_wire = fault is TierFault.REPLY_LOST and any(
        isinstance(request, Load) and request.mode is LoadMode.EXCLUSIVE for request in stage.requests
    )
    return on_the_wire or (stage.host.policy.stores_back and stage.host.counters.install_failures_owed > 0)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
@pytest.mark.parametrize("policy", SAFE)
def test_whatever_fails_leaves_nothing_behind_and_no_page_becomes_another(policy: str, scenario: Scenario) -> None:
    """Each request refused, lost on its way, or lost on its way back; once, or from then on until the path gave up.

    Afterwards no lock, pin, reference or charge is left; every page is as it was last written, or known to be lost
    where a reply may take a page along; and when the processes have ended, the tier is empty.
    """
    story = Story(policy)
    assert run_checked(story.stage, scenario(story)) is None
    count = len(story.stage.requests)
    for index, fault, for_good in product(range(count), TierFault, (False, True)):
        story = Story(policy)
        stage = story.stage
        stage.fault = fail_at(stage, index, fault, for_good=for_good)
        error = run_checked(stage, scenario(story))
        where = f"request {index} of {count}: {stage.requests[index]!r:.60}, {fault.value}, for good: {for_good}"
        assert error is None or isinstance(error, SwapTierError | PageLost), (where, error)
        may_be_lost = may_have_lost_a_page(stage, fault)
        stage.fault = no_fault
        for process in list(story.host.processes.values()):
            for address in range(PAGES):
                error = run_checked(stage, story.read(process, address))
                assert error is None or (may_be_lost and isinstance(error, PageLost)), (where, error)
        for process in list(story.host.processes.values()):
            stage.do(exit_process(story.host, process))
        stage.do(swapoff(story.host, story.host.devices[0]))
        assert story.host.resident_pages == 0, where
        assert stage.areas[0].stored_pages == 0, where
        stage.check()


@pytest.mark.parametrize("outcome", [Outcome.HIT, Outcome.DEVICE])
def test_bytes_of_another_generation_than_was_required_are_none(outcome: Outcome) -> None:
    """The tier promises not to give them, and the host can see that it does."""
    story = Story("shared")
    slot, folio = story.stage.slot(), Folio(None)
    asked = Load(slot.entry, slot.generation, LoadMode.SHARED, 0, require_generation=True)
    older = LoadReply(outcome, generation=slot.generation - 1, checksum=page_checksum(ZERO_PAGE), page=ZERO_PAGE)
    backing.take_load_reply(story.host, slot, folio, asked, older)
    assert (folio.uptodate, folio.content, folio.read_error) == (False, None, DetectedLoss.MISS_MUST_EXIST)
