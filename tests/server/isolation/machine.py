"""Several tenants on one server, and each of them alone on another: whatever the others do, it is answered the same.

Every step of a tenant is done on the server that all share and on the tenant's own, which is divided among as many.
While a tenant stays within its reserved shares, every field of every answer, its areas' counters and what is charged to
it are the same, and no bound refuses it anything. Once it has borrowed, others may be in its way: then a refusal must
name a bound, and no load may give other bytes than it stored.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from random import Random
from typing import NamedTuple, TypeAlias

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.server.tier.tier_machine import FailingDevice

from swaptier_server.access.tenants import TenantLimits, Tenants, qualified, tenant_of
from swaptier_server.rpc.activity import ClientActivity
from swaptier_server.rpc.apply import apply
from swaptier_server.tier import account, tier
from swaptier_server.tier.account import Account
from swaptier_server.tier.area import Area, Durability
from swaptier_server.tier.slices import to_its_end
from swaptier_server.tier.swap_file import Client, MemorySwapFile
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_wire.batches import (
    Acknowledges,
    Header,
    Invalidates,
    Loads,
    Lookups,
    ReplyBatches,
    RequestBatches,
    Stores,
)
from swaptier_wire.checksum import page_checksum
from swaptier_wire.errors import LimitReached, SwapTierError
from swaptier_wire.types import PAGE_BYTES, ZERO_PAGE, AreaOptions, LoadMode, LoadReply, Outcome, Reason

TENANTS = ("ada", "bob", "cy")
HOSTS = ("host", "second host")
AREAS = ("swap", "more")
SLOTS = 4
LEASE_NS = 100
IDLE_NS = 500
CALLS_MAX, CALLS_RESERVED = 12, 2
STREAMS_MAX = 5
"""Of one tenant, of whom two calls are reserved."""

LIMITS = TierLimits(
    pool_bytes_max=36 * PAGE_BYTES,
    areas_max=24,
    slots_per_area_max=SLOTS,
    lease_ns=LEASE_NS,
    leases_max=18,
    slots_max=24 * SLOTS,
    pool_entries_max=48,
    device_pages_max=24 * SLOTS,
)
"""Half of each is reserved, a third of that for each: four areas, six pages that do not shrink, three claims."""

COSTS = {"zeros": 0, "same-filled": 0, "text": 64, "noise": PAGE_BYTES, "other noise": PAGE_BYTES}
"""What a page of a kind takes of the pool, at most."""
KINDS = tuple(COSTS)


def _page(tenant: str, kind: str) -> bytes:
    chance = Random(f"{tenant} {kind}")
    if kind == "zeros":
        return ZERO_PAGE
    if kind == "same-filled":
        return chance.randbytes(8) * (PAGE_BYTES // 8)
    return (
        (f"a text of {tenant}. ".encode() * PAGE_BYTES)[:PAGE_BYTES] if kind == "text" else chance.randbytes(PAGE_BYTES)
    )


PAGES = {(tenant, kind): _page(tenant, kind) for tenant in TENANTS for kind in KINDS}
CHECKSUMS = {page: page_checksum(page) for page in PAGES.values()}
OWNERS = {page: tenant for (tenant, _), page in PAGES.items() if page != ZERO_PAGE}


class Slot(NamedTuple):
    """What a tenant knows a slot by."""

    tenant: str
    area: str
    offset: int


class Refused(NamedTuple):
    """What a call ended with."""

    error: type[SwapTierError]
    message: str
    """Empty where it names a bound: it says how much of it others have."""


class Server:
    """A tier with what stands before it, without gRPC, and what outlives it."""

    def __init__(self, durability: Durability, limits: TierLimits, broken: set[str], now_ns: Callable[[], int]) -> None:
        self._limits, self._durability, self._now_ns = limits, durability, now_ns
        self._swap_file = MemorySwapFile(lambda name: FailingDevice(lambda: tenant_of(name) in broken))
        self.epoch = 0
        self.start()

    def start(self) -> None:
        """Start it, anew if it ran."""
        self.epoch += 1
        self.tier = Tier(
            self._limits,
            self.epoch,
            swap_file=self._swap_file,
            durability=self._durability,
            now_ns=self._now_ns,
            tenant_of=lambda client_id: tenant_of(client_id) or "",
        )
        self.tier.accounts.divide(len(TENANTS))
        self.tenants = Tenants(TenantLimits(100, 100 * SLOTS, STREAMS_MAX, STREAMS_MAX), CALLS_MAX)
        self.tenants.divide(len(TENANTS))
        self.activity = ClientActivity()
        self.open_streams: dict[str, list[AbstractContextManager[None]]] = {tenant: [] for tenant in TENANTS}

    # Calls

    def swapon(self, tenant: str, client: Client, area: str, options: AreaOptions, *, knows_it: bool) -> bool:
        """Open an area; return whether it was open."""
        name, caller = qualified(tenant, area), client._replace(id=qualified(tenant, client.id))
        self.tenants.check_swapon(tenant, self.tier.areas.values(), caller, name, SLOTS, options)
        seen = self.tier.areas[name].incarnation if knows_it and name in self.tier.areas else 0
        _, is_reopened = self.tier.swapon(
            caller, name, SLOTS, options, seen_server_epoch=self.epoch * knows_it, seen_incarnation=seen
        )
        self.activity.touch(caller, self._now_ns())
        return is_reopened

    def swapoff(self, tenant: str, client: Client, area: str) -> int:
        """Close an area; return how many pages the pool held."""
        return self.tier.swapoff(client._replace(id=qualified(tenant, client.id)), qualified(tenant, area))

    def exchange(self, tenant: str, request: RequestBatches) -> ReplyBatches:
        """Apply a message."""
        with self.tenants.request(tenant):
            client = Client(qualified(tenant, request.header.client_id), request.header.client_epoch)
            area = self.tier.area(client, qualified(tenant, request.header.area))
            self.activity.touch(client, self._now_ns())
            try:
                return to_its_end(apply(area, request))
            finally:
                area.known_slots.pack()  # as after a batch: what a row cannot say would be lost here

    def open_stream(self, tenant: str) -> None:
        """Have one call more under way."""
        stream = self.tenants.stream(tenant)
        stream.__enter__()
        self.open_streams[tenant].append(stream)

    def close_stream(self, tenant: str) -> None:
        """End a call."""
        if self.open_streams[tenant]:
            self.open_streams[tenant].pop().__exit__(None, None, None)

    # What the server does by itself

    def reap(self) -> None:
        """Forget the areas of clients that are gone."""
        owners = {name: area.client for name, area in self.tier.areas.items()}
        for name in self.activity.expired_areas(owners, self._now_ns(), IDLE_NS):
            self.tier.drop_area(name)

    def expire(self) -> None:
        """End the leases that are over."""
        while self.tier.expire_leases(leases_max=1):
            pass

    # What a tenant can see

    def areas_of(self, tenant: str) -> Iterator[Area]:
        """Yield the open areas of *tenant*."""
        return (area for name, area in self.tier.areas.items() if tenant_of(name) == tenant)

    def stat(self, tenant: str) -> dict[str, object]:
        """Return what Stat and metrics say of a tenant's areas, and what it is charged."""
        said: dict[str, object] = {}
        for area in self.areas_of(tenant):
            said |= {f"{area.name} {row.name} {row.labels}": row.value for row in area.counters.rows()}
            said[area.name] = area.client, area.options, area.stored_pages, area.same_filled_pages, area.pool_bytes
            said[f"{area.name} elsewhere"] = area.device_pages, area.handed_off_pages, area.written_pages
        if (of := self.account_of(tenant)) is not None:
            said["charged"] = [part.used for part in of.parts]
            said["epochs"] = dict(of.epochs)
        return said

    def account_of(self, tenant: str) -> Account | None:
        """Return what the tier knows of *tenant*."""
        return self.tier.accounts.find(qualified(tenant, HOSTS[0]))


def names_a_bound(answer: object) -> bool:
    """Tell whether *answer* is, or has in it, a refusal for want of what tenants share."""
    if isinstance(answer, ReplyBatches):
        return any(reply.reason in (Reason.POOL_LIMIT, Reason.DEVICE_LIMIT) for reply in answer.store or ())
    return isinstance(answer, Refused) and not answer.message


# The machine

Storing: TypeAlias = dict[int, tuple[int, str]]
"""By offset: how much newer than the newest, and which page."""
Loading: TypeAlias = dict[int, tuple[int, LoadMode, int]]
"""By offset: how much older than the newest, how, and the claim's number."""
Freeing: TypeAlias = dict[int, int]
"""By offset: how much newer than the newest."""

TENANT = st.sampled_from(TENANTS)
HOST = st.sampled_from(HOSTS)
AREA = st.sampled_from((AREAS[0], *AREAS))
EPOCHS = st.sampled_from([1, 1, 1, 1, 2, 3])
RARELY = st.sampled_from([False, False, False, True])
OFFSETS = st.integers(0, SLOTS - 1)
STORES = st.dictionaries(OFFSETS, st.tuples(st.sampled_from([1, 1, 1, 2, 0, -1]), st.sampled_from(KINDS)))
LOADS = st.dictionaries(
    OFFSETS, st.tuples(st.sampled_from([0, 0, 0, 1]), st.sampled_from(LoadMode), st.sampled_from([1, 1, 2]))
)
FREED = st.dictionaries(OFFSETS, st.sampled_from([0, 0, 0, -1, 1]))


class IsolationMachine(RuleBasedStateMachine):
    """Drives the server that all share, and that of each tenant."""

    @initialize(durability=st.sampled_from(Durability), keeps_incompressible=st.sampled_from([True, True, False]))
    def begin(self, durability: Durability, keeps_incompressible: bool) -> None:
        """Start all servers, with an area open on each for every tenant."""
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(tier, "SLOTS_FORGOTTEN_MAX", 1)
        self.patch.setattr(account, "CLIENTS_REMEMBERED_MAX", 2)
        self.now = 0
        self.broken: set[str] = set()
        limits = LIMITS._replace(keeps_incompressible=keeps_incompressible)

        def start() -> Server:
            return Server(durability, limits, self.broken, lambda: self.now)

        self.shared = start()
        self.alone = {tenant: start() for tenant in TENANTS}
        """Without those that have been in need of what was lent, and others had it."""
        self.has_borrowed: set[str] = set()
        self.seen: dict[Slot, int] = {}
        """The highest generation that was sent."""
        self.stored: dict[Slot, dict[int, bytes]] = {}
        """By generation, what was stored last as that."""
        for tenant in TENANTS:
            self.swapon(tenant, HOSTS[0], 1, AREAS[0], False, True, False)

    def teardown(self) -> None:
        """Leave nothing behind."""
        if hasattr(self, "patch"):
            self.patch.undo()

    @property
    def servers(self) -> list[Server]:
        """Every server."""
        return [self.shared, *self.alone.values()]

    def ask(self, tenant: str, call: Callable[[Server], object], **more: int) -> object:
        """Do the same for *tenant* on the shared server and on its own; return what the shared one answered.

        It takes so much *more*, at most, of what tenants share.
        """

        def answer(server: Server) -> object:
            try:
                return call(server)
            except LimitReached:
                return Refused(LimitReached, "")
            except SwapTierError as error:
                return Refused(type(error), str(error))

        is_promised = self.is_promised(tenant, more)
        shared = answer(self.shared)
        assert not (is_promised and names_a_bound(shared)), f"{tenant} was promised what it is refused: {shared}"
        if not is_promised:
            self.has_borrowed.add(tenant)
        if (own := self.alone.get(tenant)) is not None and (alone := answer(own)) != shared:
            assert tenant in self.has_borrowed, f"{tenant} has borrowed nothing, and is answered {shared}, not {alone}"
            assert names_a_bound(shared) or type(shared) is type(alone), f"{tenant}: {shared}, alone {alone}"
            del self.alone[tenant]
        return shared

    def is_promised(self, tenant: str, more: dict[str, int]) -> bool:
        """Tell whether so much *more*, by the names of `Bounds`, is reserved for *tenant*, and so are its calls."""
        of = self.shared.account_of(tenant)
        reserved = self.shared.tier.accounts.bounds._asdict()
        used = {} if of is None else dict(zip(reserved, (part.used for part in of.parts), strict=True))
        calls = len(self.shared.open_streams[tenant]) + more.pop("calls", 0)
        return calls <= CALLS_RESERVED and all(
            used.get(what, 0) + amount <= reserved[what].reserved for what, amount in more.items()
        )

    @rule(
        tenant=TENANT,
        host=HOST,
        epoch=EPOCHS,
        area=AREA,
        is_freeing=RARELY,
        has_writeback=st.booleans(),
        knows_it=st.booleans(),
    )
    def swapon(
        self, tenant: str, host: str, epoch: int, area: str, is_freeing: bool, has_writeback: bool, knows_it: bool
    ) -> None:
        """Open an area, or take it over in another epoch."""
        options = AreaOptions(is_freeing, None, has_writeback)
        client = Client(host, epoch)
        self.ask(
            tenant,
            lambda server: server.swapon(tenant, client, area, options, knows_it=knows_it),
            areas=1,
            slots=SLOTS,
        )

    @rule(tenant=TENANT, area=AREA, is_meant=RARELY)
    def swapoff(self, tenant: str, area: str, is_meant: bool) -> None:
        """Close an area."""
        if is_meant:
            client = self.owner_of(tenant, area)
            self.ask(tenant, lambda server: server.swapoff(tenant, client, area))

    @rule(tenant=TENANT, area=AREA, messages=st.lists(st.tuples(STORES, LOADS, FREED), min_size=1, max_size=4))
    def use(self, tenant: str, area: str, messages: list[tuple[Storing, Loading, Freeing]]) -> None:
        """Store, read and free for a while, as hosts do."""
        for stores, loads, freed in messages:
            self.exchange(tenant, area, stores, {}, False, {}, True)
            self.exchange(tenant, area, {}, loads, bool(freed), freed, True)

    @rule(
        tenant=TENANT,
        area=AREA,
        stores=STORES,
        loads=LOADS,
        acknowledged=st.booleans(),
        freed=FREED,
        is_safe=st.booleans(),
    )
    def exchange(
        self,
        tenant: str,
        area: str,
        stores: Storing,
        loads: Loading,
        acknowledged: bool,
        freed: Freeing,
        is_safe: bool,
    ) -> None:
        """Send one message, that stores, loads and frees."""
        if qualified(tenant, area) not in self.shared.tier.areas:
            self.swapon(tenant, HOSTS[0], 3, area, False, True, False)
        slots = [Slot(tenant, area, offset) for offset in range(SLOTS)]
        seen = [self.seen.get(slot, 0) for slot in slots]
        to_store = Stores([], [], [], [])
        for offset, (ahead, kind) in stores.items():
            page = PAGES[tenant, kind]
            generation = max(1, seen[offset] + ahead)
            self.seen[slots[offset]] = max(generation, seen[offset])
            for column, value in zip(to_store, (offset, generation, page, CHECKSUMS[page]), strict=True):
                column.append(value)  # type: ignore[attr-defined]  # each has its own type
        to_load = Loads(
            list(loads),
            [max(0, seen[offset] - behind) for offset, (behind, _, _) in loads.items()],
            [mode for _, mode, _ in loads.values()],
            [claim for _, _, claim in loads.values()],
            is_safe,
        )
        claimed = [offset for offset, (_, mode, _) in loads.items() if mode is LoadMode.CLAIM and acknowledged]
        request = RequestBatches(
            Header(*self.owner_of(tenant, area), 1, area),
            to_store if stores else None,
            to_load if loads else None,
            Lookups(list(range(SLOTS))),
            Acknowledges(claimed, [max(1, seen[offset]) for offset in claimed], [loads[one][2] for one in claimed])
            if claimed
            else None,
            Invalidates(list(freed), [max(0, seen[offset] + ahead) for offset, ahead in freed.items()])
            if freed
            else None,
        )
        pages, costs = len(stores), [COSTS[kind] for _, kind in stores.values()]
        answer = self.ask(
            tenant,
            lambda server: server.exchange(tenant, request),
            calls=1,
            pool_bytes=sum(costs),
            pool_entries=pages,
            device_pages=pages,
            leases=sum(mode is LoadMode.CLAIM for _, mode, _ in loads.values()),
        )
        if isinstance(answer, ReplyBatches):
            for offset, generation, page, stored in zip(*to_store[:3], answer.store or (), strict=True):
                if stored.outcome in (Outcome.STORED, Outcome.DEVICE):
                    self.stored.setdefault(slots[offset], {})[generation] = page
            for offset, reply in zip(loads, answer.load or (), strict=True):
                self.check_bytes(slots[offset], reply, is_safe)

    def check_bytes(self, slot: Slot, reply: LoadReply, is_safe: bool) -> None:
        """See that a reply has no bytes but the tenant's own, and of the generation that it says where that counts."""
        page = reply.content()
        if page is None:
            return
        assert OWNERS.get(page, slot.tenant) == slot.tenant, f"{slot} was given a page of {OWNERS[page]}"
        if is_safe:
            assert page == self.stored[slot][reply.generation], f"{slot} was given another page of its own"

    def owner_of(self, tenant: str, area: str) -> Client:
        """Return the client that opened *area*, or one that did not."""
        open_area = self.shared.tier.areas.get(qualified(tenant, area))
        if open_area is None:
            return Client(HOSTS[0], 1)
        return open_area.client._replace(id=open_area.client.id.partition("|")[2])

    @rule(tenant=TENANT, area=AREA, passes=st.sampled_from([0, LEASE_NS]))
    def claim_everything(self, tenant: str, area: str, passes: int) -> None:
        """Store to all slots and claim them, and perhaps wait until no claim counts any more."""
        self.exchange(tenant, area, dict.fromkeys(range(SLOTS), (1, "noise")), {}, False, {}, True)
        self.exchange(tenant, area, {}, dict.fromkeys(range(SLOTS), (0, LoadMode.CLAIM, 1)), False, {}, True)
        self.time_passes(passes)

    @rule(tenant=TENANT, kind=st.sampled_from(KINDS))
    def flood(self, tenant: str, kind: str) -> None:
        """Take all of everything that can be had."""
        for number in range(4):
            for area in (f"{name} {number}" for name in AREAS):
                self.swapon(tenant, HOSTS[0], 1, area, False, True, False)
                self.exchange(tenant, area, dict.fromkeys(range(SLOTS), (1, kind)), {}, False, {}, True)

    @rule(tenant=TENANT, first=st.integers(0, 9))
    def churn(self, tenant: str, first: int) -> None:
        """Be many hosts, one after the other."""
        for number in range(first, first + 3):
            client = Client(f"host {number}", 7)
            for call in (
                lambda server: server.swapon(tenant, client, "of many", AreaOptions(), knows_it=False),  # noqa: B023
                lambda server: server.swapoff(tenant, client, "of many"),  # noqa: B023
            ):
                self.ask(tenant, call, areas=1, slots=SLOTS)

    @rule(tenant=TENANT, other=TENANT, host=HOST, separator=st.sampled_from(["", "|"]))
    def meddle(self, tenant: str, other: str, host: str, separator: str) -> None:
        """Ask for an area by what another tenant's is called on the server."""
        client = Client(f"{other}|{host}", 9)
        area = f"{separator}{other}|{AREAS[0]}"
        freed = RequestBatches(Header(*client, 1, area), invalidate=Invalidates([0], [1 << 40]))
        self.ask(tenant, lambda server: server.exchange(tenant, freed), calls=1)
        self.ask(tenant, lambda server: server.swapoff(tenant, client, area))

    @rule(tenant=TENANT, opens=st.integers(0, STREAMS_MAX + 1))
    def have_streams(self, tenant: str, opens: int) -> None:
        """Have so many calls under way."""
        for _ in range(STREAMS_MAX):
            self.ask(tenant, lambda server: server.close_stream(tenant))
        for _ in range(opens):
            self.ask(tenant, lambda server: server.open_stream(tenant), calls=1)

    # What happens to all

    @rule(passes=st.sampled_from([1, LEASE_NS // 2, LEASE_NS, IDLE_NS]))
    def time_passes(self, passes: int) -> None:
        """Leases end, and clients that ask nothing are gone."""
        self.now += passes
        for server in self.servers:
            server.expire()
            server.reap()

    @rule()
    def shrink(self) -> None:
        """The servers make room."""
        for server in self.servers:
            server.tier.shrink()

    @rule()
    def end_closed_areas(self) -> None:
        """The servers forget what closed areas had; until then each swapoff has its own tenant's forgotten only."""
        for server in self.servers:
            while server.tier.is_ending:
                server.tier.end_some()

    @rule(tenant=TENANT)
    def break_or_repair_devices(self, tenant: str) -> None:
        """The devices of one tenant take nothing, or do again."""
        self.broken ^= {tenant}

    @rule(is_meant=RARELY, drains=st.booleans())
    def restart(self, is_meant: bool, drains: bool) -> None:
        """The servers end, as they should or killed, and start on what they left."""
        if is_meant:
            for server in self.servers:
                for _ in server.tier.drain() if drains else ():
                    pass
                server.start()

    @invariant()
    def who_borrows_nothing_sees_nothing_of_the_others(self) -> None:
        """What a tenant is told of its areas, and what is charged to it, is what it would be alone."""
        if not hasattr(self, "alone"):
            return
        self.shared.tier.check_invariants()
        for tenant, own in list(self.alone.items()):
            beside, alone = self.shared.stat(tenant), own.stat(tenant)
            if beside != alone:
                differ = {name: (beside.get(name), said) for name, said in alone.items() if beside.get(name) != said}
                assert tenant in self.has_borrowed, f"{tenant} has borrowed nothing, and beside others has {differ}"
                del self.alone[tenant]
