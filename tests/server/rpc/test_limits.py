"""Every limit of KERNEL.md 3.7 as a user meets it: set by a flag or at Swapon, told in answers, counted on /metrics.

Pages are noise, which takes exactly PAGE_BYTES of the pool each.
"""

import asyncio
import urllib.request
from collections.abc import Iterable

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.server.conftest import Ask, Serve, Served
from tests.server.host import noise
from tests.server.rpc.test_service import HEADER, loads, stores

from swaptier_wire.batches import Invalidates, Lookups, RequestBatches
from swaptier_wire.types import PAGE_BYTES, Outcome, Reason

STORED = Outcome.STORED, Reason.NONE


async def store(ask: Ask, served: Served, *offsets: int, area: str = "a") -> list[tuple[Outcome, Reason]]:
    """Store noise at each of *offsets*, one message each; return the answers."""
    header = HEADER._replace(area=area)
    answers = []
    for offset in offsets:
        replies = (await ask(served, stores((offset, 1, noise(offset, 1)), header=header))).store
        assert replies is not None
        answers.append((replies[0].outcome, replies[0].reason))
    return answers


async def pooled(ask: Ask, served: Served, offsets: Iterable[int], area: str = "a") -> list[int]:
    """Return which of *offsets* the pool has."""
    asked = list(offsets)
    replies = (await ask(served, RequestBatches(HEADER._replace(area=area), lookup=Lookups(asked)))).lookup
    assert replies is not None
    return [offset for offset, reply in zip(asked, replies, strict=True) if reply.outcome is Outcome.HIT]


async def all_there(ask: Ask, served: Served, offsets: Iterable[int], area: str = "a") -> bool:
    """Tell whether every page is as it was stored, from wherever."""
    asked = list(offsets)
    header = HEADER._replace(area=area)
    wanted = loads(*((offset, 1) for offset in asked), require_generation=True, header=header)
    replies = (await ask(served, wanted)).load
    assert replies is not None
    return all(reply.content() == noise(offset, 1) for offset, reply in zip(asked, replies, strict=True))


async def metric(served: Served, name: str, area: str | None = "a", **labels: str) -> float:
    """Return a sample of /metrics."""
    wanted = ({} if area is None else {"area": area}) | labels

    def fetch() -> str:
        with urllib.request.urlopen(f"http://{served.server.metrics_address}/metrics", timeout=10) as response:
            return str(response.read().decode())

    families = text_string_to_metric_families(await asyncio.to_thread(fetch))
    [value] = [
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == f"swaptier_tier_{name}" and sample.labels == wanted
    ]
    return value


async def start(serve: Serve, pages: int, threshold_percent: int = 90, **config: object) -> Served:
    """Return a server whose pool takes that many *pages*."""
    limits = {"pool_limit": pages * PAGE_BYTES, "accept_threshold_percent": threshold_percent}
    return await serve(metrics="127.0.0.1:0", **limits, **config)


async def test_a_pool_at_its_limit_is_written_back_to_its_threshold_oldest_pages_first(serve: Serve, ask: Ask) -> None:
    """--pool-limit and --accept-threshold-percent: the page that meets the limit goes to the device."""
    served = await start(serve, 10, 50)
    await served.swapon()
    assert set(await store(ask, served, *range(10))) == {STORED}
    assert await metric(served, "pool_accepting", None) == 1
    assert await store(ask, served, 10) == [(Outcome.DEVICE, Reason.POOL_LIMIT)]
    assert await pooled(ask, served, range(11)) == [5, 6, 7, 8, 9]
    assert await metric(served, "pool_limit_hits_total", None) == 1
    assert await metric(served, "rejects_total", reason="pool_limit") == 1
    assert await metric(served, "written_back_pages_total") == 5
    assert await metric(served, "pool_bytes") == 5 * PAGE_BYTES
    assert await metric(served, "device_pages") == 6
    assert await metric(served, "pool_accepting", None) == 0, "nobody has stored since"
    assert await store(ask, served, 11) == [STORED]
    assert await metric(served, "pool_accepting", None) == 1
    assert await all_there(ask, served, range(12))


async def test_a_pool_that_was_full_refuses_until_it_is_down_at_its_threshold(serve: Serve, ask: Ask) -> None:
    """Hysteresis, seen where nobody may write back: what was freed in between does not help."""
    served = await start(serve, 10, 50)
    await served.swapon(writeback=False)
    refused = [(Outcome.REJECTED, Reason.POOL_LIMIT)]
    assert set(await store(ask, served, *range(10))) == {STORED}
    assert await store(ask, served, 10) == refused

    async def free(offset: int) -> None:
        await ask(served, RequestBatches(HEADER, invalidate=Invalidates([offset], [1])))

    for offset in range(4):
        await free(offset)
        assert await store(ask, served, 20 + offset) == refused, "above the threshold"
    await free(4)
    assert await store(ask, served, 30) == [STORED]
    assert await metric(served, "pool_limit_hits_total", None) == 1
    assert await metric(served, "rejects_total", reason="pool_limit") == 5
    assert await metric(served, "written_back_pages_total") == 0
    assert await all_there(ask, served, [5, 6, 7, 8, 9, 30])


async def test_a_page_that_was_looked_at_has_a_second_chance(serve: Serve, ask: Ask) -> None:
    """The oldest page was loaded since it was stored, so the next one goes."""
    served = await start(serve, 4, 75)
    await served.swapon()
    await store(ask, served, *range(4))
    assert await all_there(ask, served, [0])
    assert await store(ask, served, 4) == [(Outcome.DEVICE, Reason.POOL_LIMIT)]
    assert await pooled(ask, served, range(4)) == [0, 2, 3]


async def test_an_area_at_its_quota_writes_its_own_oldest_pages_back(serve: Serve, ask: Ask) -> None:
    """AreaOptions.pool_bytes_max: the neighbour's pages stay, though they are older."""
    served = await start(serve, 100)
    await served.swapon("b")
    await store(ask, served, *range(3), area="b")
    await served.swapon(pool_bytes_max=2 * PAGE_BYTES)
    assert set(await store(ask, served, *range(5))) == {STORED}
    assert await pooled(ask, served, range(5)) == [3, 4]
    assert await pooled(ask, served, range(3), "b") == [0, 1, 2]
    assert await metric(served, "written_back_pages_total") == 3
    assert await metric(served, "written_back_pages_total", "b") == 0
    assert await all_there(ask, served, range(5))


@pytest.mark.parametrize(("writeback", "outcome"), [(True, Outcome.DEVICE), (False, Outcome.REJECTED)])
async def test_a_page_above_the_quota_goes_to_the_device_if_the_area_may_write_there(
    serve: Serve, ask: Ask, writeback: bool, outcome: Outcome
) -> None:
    """AreaOptions.writeback: without it the refusal has the pool's reason, and nothing is on the device."""
    served = await start(serve, 100)
    await served.swapon(pool_bytes_max=PAGE_BYTES - 1, writeback=writeback)
    assert await store(ask, served, 0) == [(outcome, Reason.AREA_LIMIT)]
    assert await metric(served, "rejects_total", reason="area_limit") == 1
    assert await metric(served, "stores_total", outcome=outcome.name.lower()) == 1
    assert await metric(served, "device_pages") == int(writeback)


async def test_who_has_used_up_a_quota_is_asked_for_room_first(serve: Serve, ask: Ask) -> None:
    """The pool is full by everybody's pages; the area that stands at its quota gives, older pages of others stay."""
    served = await start(serve, 10, 80)
    await served.swapon("b")
    await store(ask, served, *range(6), area="b")
    await served.swapon(pool_bytes_max=4 * PAGE_BYTES)
    await store(ask, served, *range(4))
    assert await store(ask, served, 6, area="b") == [(Outcome.DEVICE, Reason.POOL_LIMIT)]
    assert await pooled(ask, served, range(4)) == [2, 3]
    assert await pooled(ask, served, range(6), "b") == [0, 1, 2, 3, 4, 5]
    assert await metric(served, "written_back_pages_total") == 2


@pytest.mark.parametrize(
    ("keeps", "answer"),
    [(True, STORED), (False, (Outcome.DEVICE, Reason.COMPRESS_POOR))],
    ids=["--keep-incompressible", "--no-keep-incompressible"],
)
async def test_what_does_not_compress_is_kept_raw_or_refused_with_its_own_cause(
    serve: Serve, ask: Ask, keeps: bool, answer: tuple[Outcome, Reason]
) -> None:
    """As newer kernels do, and as older ones (zswap: reject_compress_poor)."""
    served = await start(serve, 10, keep_incompressible=keeps)
    await served.swapon()
    assert await store(ask, served, 0) == [answer]
    assert await metric(served, "pool_bytes") == (PAGE_BYTES if keeps else 0)
    assert await metric(served, "rejects_total", reason="compress_poor") == int(not keeps)
    assert await all_there(ask, served, [0])
