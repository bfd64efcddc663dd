"""The life of a server: bound, serving, draining, gone.

Touches gRPC, sockets, the event loop and the clock. Order of a drain, and why:
  1. health says NOT_SERVING, so that balancers and probes look elsewhere;
  2. new requests are refused as Draining, which tells a client that they had no effect;
  3. open streams end, each after the answer it is about to give;
  4. what is in flight is finished, for at most --drain-seconds;
  5. the pool is written to the device, where the next server finds it if --device outlives this one;
  6. the port is closed. An open Health.Watch would hold gRPC's own grace to its end, so that is short.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, Self

import grpc
from grpc_health.v1 import health, health_pb2
from prometheus_client import CollectorRegistry

from swaptier_server.access.access import Access
from swaptier_server.access.scrapers import MetricsScrapers
from swaptier_server.access.tenants import HEALTH_CHECKS_MAX, HEALTH_WATCHES_MAX, TenantLimits, Tenants, tenant_of
from swaptier_server.access.tls import Tls
from swaptier_server.backing import SwapFileWatch, Upkeep, open_swap_file
from swaptier_server.config import CALLS_MAX, LEASES_MAX, ServerConfig
from swaptier_server.errors import ConfigError
from swaptier_server.housekeeping import BEAT_SECONDS_MAX, HOUSEKEEPING_SECONDS, Credentials, Housekeeper
from swaptier_server.listening import check_can_listen, explain
from swaptier_server.logs import get_log
from swaptier_server.rpc.activity import ClientActivity
from swaptier_server.rpc.area_labels import AreaLabels
from swaptier_server.rpc.callers import Callers
from swaptier_server.rpc.descriptors import connections_max
from swaptier_server.rpc.guard import Guard
from swaptier_server.rpc.metrics import MetricsServer, TierCollector, make_registry
from swaptier_server.rpc.rpc_metrics import RpcMetrics
from swaptier_server.rpc.server import REFUSED_CALLS_MAX, SERVICE, SERVICES, channel_options, make_grpc_server
from swaptier_server.rpc.service import SwapTierService
from swaptier_server.rpc.snapshot import LoopSnapshots, TierSnapshot, take_snapshot
from swaptier_server.rpc.traffic import Traffic
from swaptier_server.shares import Shares
from swaptier_server.swapfile.file import SqliteSwapFile, SwapFileUnusable
from swaptier_server.tier.account import UNBOUNDED
from swaptier_server.tier.area import Durability
from swaptier_server.tier.device import DeviceError, MemoryDevice
from swaptier_server.tier.shrinker import DrainProgress
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_wire.addresses import Address
from swaptier_wire.awake import AwakeClock
from swaptier_wire.epochs import new_epoch

LAST_GRACE_SECONDS: Final = 0.5
"""For what a drain cannot end, such as Health.Watch."""
HEALTH_FLIP_SECONDS_MAX: Final = 1.0
"""A watcher that does not read must not hold up the drain."""


class TierServer:
    """A tier served over gRPC. Made and started by `start()`, ended by `drain()`."""

    def __init__(
        self,
        config: ServerConfig,
        epoch: int,
        now_ns: Callable[[], int] | None,
        device_for: Callable[[str], MemoryDevice],
        swap_file: SqliteSwapFile | None,
    ) -> None:
        """Wire the parts together; nothing is bound yet. See `start()`.

        Raises:
            ConfigError: a certificate or token file cannot be used.
        """
        self.config: Final = config
        awake = AwakeClock(time.monotonic_ns, BEAT_SECONDS_MAX)
        self.registry: Final[CollectorRegistry] = make_registry()
        self.callers: Final = Callers(self.registry, now_ns or time.monotonic_ns)
        now_ns = now_ns or awake.now_ns
        self.tier: Final = Tier(
            tier_limits(config),
            epoch,
            device_for,
            swap_file=swap_file,
            durability=Durability(config.durability),
            tenant_of=lambda client_id: (config.knows_tenants and tenant_of(client_id)) or "",
            now_ns=now_ns,
        )
        self._swap_file: Final = swap_file
        self.traffic: Final = Traffic(now_ns)
        self.upkeep: Final = Upkeep(self.tier, swap_file, self.traffic.turns, self.callers.log)
        self._swap_file_watch: Final = (
            None if swap_file is None else SwapFileWatch(swap_file, self.upkeep.after_request, self.callers.log)
        )
        self.activity: Final = ClientActivity()
        self.listening: Address | None = None
        """The bound address, once started."""
        self.metrics_address: Address | None = None
        """The bound address, once started; None when metrics are off."""
        self.access: Final = Access(config.tokens, asks_certificates=config.tls_client_ca is not None)
        self._tls: Final = None if config.tls_files is None else Tls(*config.tls_files)
        if self._tls is not None:
            self.access.authorities.replace(self._tls.material.authorities)
        self._scrapers: Final = MetricsScrapers(config.metrics_token, config.metrics_tls_files)
        self._log = get_log()
        for area in self.tier.areas.values():
            # Found in the swap file: its client has as long to come back as if it had been here a moment ago.
            self.activity.touch(area.client, now_ns())
        tenants = self.tenants = Tenants(_tenant_limits(config), CALLS_MAX)
        self.shares: Final = Shares(config, self.access, self.tier, tenants, swap_file, self.callers.log)
        self._health = health.aio.HealthServicer()
        self._metrics: MetricsServer | None = None
        self._tasks: Final[list[asyncio.Task[None]]] = []
        self.failed: Final = asyncio.Event()
        """gRPC has ended: a process that listens no more must not look alive."""
        known_by = (self.access, self._tls, self._scrapers)
        credentials = Credentials(*known_by, self.traffic, self.callers, self.shares)
        parts = (self.tier, self.activity, credentials, self.upkeep, self._swap_file_watch)
        self.housekeeper: Final = Housekeeper(*parts, awake, now_ns, area_idle_seconds=config.area_idle_seconds)
        after_request = self.upkeep.after_request
        service = SwapTierService(
            self.tier, self.activity, tenants, self.callers, after_request, now_ns, config.batch_slots_max
        )
        guard = Guard(SERVICE, RpcMetrics(self.registry, SERVICES), self.traffic, self.access, tenants, self.callers)
        calls_max = CALLS_MAX + HEALTH_CHECKS_MAX + HEALTH_WATCHES_MAX + REFUSED_CALLS_MAX
        options = channel_options(config.batch_slots_max, connections_max())
        self._grpc: Final = make_grpc_server(service, self._health, guard, options, calls_max, self._refused)

    @classmethod
    async def start(
        cls,
        config: ServerConfig,
        *,
        epoch: int | None = None,
        now_ns: Callable[[], int] | None = None,
        device_for: Callable[[str], MemoryDevice] = lambda _name: MemoryDevice(),
    ) -> Self:
        """Return a server that serves.

        *epoch* is made of the time when it is not given, and more if an earlier server on the same swap file had that;
        *now_ns* is a monotonic clock, without one the time for which this process ran; *device_for* makes the device of
        an area, by name, where --device is memory.

        Raises:
            ConfigError: an address or the swap file cannot be had; nothing was left running.
        """
        epoch = new_epoch() if epoch is None else epoch
        swap_file = open_swap_file(config)
        try:
            if swap_file is not None:
                epoch = swap_file.begin_life(epoch)
            server = cls(config, epoch, now_ns, device_for, swap_file)
        except (SwapFileUnusable, DeviceError, ValueError) as error:
            if swap_file is not None:
                swap_file.close()
            raise ConfigError(f"--device: {error}") from error
        except ConfigError:
            if swap_file is not None:
                swap_file.close()
            raise
        try:
            await server._start()
        except BaseException:
            await server._stop()
            raise
        return server

    async def _start(self) -> None:
        if self._swap_file_watch is not None:
            pages = sum(area.device_pages for area in self.tier.areas.values())
            await self._swap_file_watch.start(len(self.tier.areas), pages)
        check_can_listen("--listen", self.config.listen)  # the same server twice is said of that, not of --metrics
        self._start_metrics()
        await self._start_grpc()
        for service in ("", SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        self._tasks[:] = [
            asyncio.create_task(self.housekeeper.beat_forever(), name="heart"),
            asyncio.create_task(self.housekeeper.keep_house_forever(), name="housekeeper"),
            asyncio.create_task(self._watch_grpc(), name="gRPC's watch"),
        ]

    def _start_metrics(self) -> None:
        snapshots = LoopSnapshots(self._take_snapshot)
        areas_max = self.config.tenant_areas_max if self.config.knows_tenants else self.config.areas_max
        labels = AreaLabels(2 * areas_max, has_tenants=self.config.knows_tenants)
        self.registry.register(TierCollector(snapshots.from_thread, labels))
        if self.config.metrics is None:
            return
        try:
            self._metrics = MetricsServer(self.config.metrics, self.registry, self._scrapers)
        except OSError as error:
            raise ConfigError(explain("--metrics", self.config.metrics, error)) from error
        self.metrics_address = self._metrics.address

    async def _start_grpc(self) -> None:
        address = self.config.listen
        check_can_listen("--listen", address)
        try:
            if self._tls is None:
                port = self._grpc.add_insecure_port(address)
            else:
                port = self._grpc.add_secure_port(address, self._tls.server_credentials())
        except RuntimeError as error:
            # Taken since the check, or something the check does not know.
            raise ConfigError(f"--listen: cannot listen on {address}: gRPC could not bind it") from error
        await self._grpc.start()
        self.listening = address.with_port(port)
        if not address.is_local and (self._tls is None or not self.config.knows_tenants):
            self._log.warning(
                "insecure_beyond_this_machine",
                listening=self.listening,
                is_encrypted=self._tls is not None,
                knows_who_calls=self.config.knows_tenants,
                meaning="pages are memory of other programs; anyone on the network can read and replace them",
                advice="make sure that the network is private, or give --tls-cert, --tls-key and --tokens",
            )

    def _refused(self, peer: str) -> None:
        """Count a call of an unknown method."""
        self.callers.called(peer, None, grpc.StatusCode.UNIMPLEMENTED)

    def reload(self) -> None:
        """Read certificates and tokens again."""
        self.housekeeper.reload()

    # The end

    async def _watch_grpc(self) -> None:
        """Note that gRPC has ended although nothing of ours ended it."""
        reason = "it stopped"
        try:
            while await self._grpc.wait_for_termination(HOUSEKEEPING_SECONDS):
                continue
        except Exception as error:  # noqa: BLE001 - gRPC's own, whatever it was
            reason = f"{type(error).__name__}: {error}"
        self._log.critical("grpc_failed", reason=reason, meaning="this process drains and ends")
        self.failed.set()

    async def drain(self) -> None:
        """Finish what is in flight, refuse the rest, close the port, say what was dropped."""
        self._log.info("draining", in_flight=self.traffic.in_flight, open_streams=self.traffic.open_streams)
        try:
            await asyncio.wait_for(self._health.enter_graceful_shutdown(), HEALTH_FLIP_SECONDS_MAX)
        except TimeoutError:
            self._log.warning("health_watcher_does_not_read")
        cut_off = await self.traffic.drain(self.config.drain_seconds)
        if cut_off:
            self._log.warning("drain_ran_out_of_time", cut_off=cut_off, drain_seconds=self.config.drain_seconds)
        held = self._take_snapshot()
        outlives = self._swap_file is not None
        written = await self.upkeep.write_back_all() if outlives else DrainProgress()
        if self._swap_file_watch is not None:
            self._swap_file_watch.look()
        await self._stop()
        self.callers.log.say_what_was_left_out(is_last=True)
        self._say_what_a_drain_came_to(held, written, cut_off, outlives=outlives)

    def _say_what_a_drain_came_to(
        self, held: TierSnapshot, written: DrainProgress, cut_off: int, *, outlives: bool
    ) -> None:
        """Tell what became of the pages that the tier *held*: nothing is dropped silently."""
        dropped = sum(area.stored_pages for area in held.areas) - written.written
        if written.failed:
            self._log.error(
                "drain_refused_by_the_device",
                dropped_pool_pages=written.failed,
                meaning="only the pool had these pages, and the device did not take them: they are gone",
            )
        if not outlives:
            meaning = "pages and devices are held in memory only and are gone now"
        elif dropped:
            meaning = "the next server on this device serves what was written; what was dropped is gone"
        else:
            meaning = "the next server on this device serves what was written"
        self._log.info(
            "drained",
            areas=len(held.areas),
            written_back_pages=written.written,
            dropped_pool_pages=dropped,
            dropped_device_pages=0 if outlives else sum(area.device_pages for area in held.areas),
            cut_off=cut_off,
            meaning=meaning,
        )

    async def _stop(self) -> None:
        """Close everything that is open."""
        for task in self._tasks:
            task.cancel()
        await self._grpc.stop(LAST_GRACE_SECONDS)
        if self._metrics is not None:
            await asyncio.to_thread(self._metrics.stop)
        await self.upkeep.quiet()
        if self._swap_file_watch is not None:
            await self._swap_file_watch.close()

    def _take_snapshot(self) -> TierSnapshot:
        is_ready = self.listening is not None and not self.traffic.is_draining
        fault = None if self._swap_file_watch is None else self._swap_file_watch.fault
        return take_snapshot(
            self.tier, areas_expired=self.housekeeper.areas_expired, is_ready=is_ready, device_fault=fault
        )


def tier_limits(config: ServerConfig) -> TierLimits:
    """Return what the tier of a server of *config* may hold."""
    return TierLimits(
        pool_bytes_max=config.pool_limit,
        accept_threshold_percent=config.accept_threshold_percent,
        areas_max=config.areas_max,
        slots_per_area_max=config.slots_per_area_max,
        slots_max=config.slots_max,
        pool_entries_max=config.pool_entries_max,
        device_pages_max=UNBOUNDED if config.device_pages_max is None else config.device_pages_max,
        leases_max=LEASES_MAX,
        keeps_incompressible=config.keep_incompressible,
        lease_ns=round(config.lease_seconds * 1e9),
    )


def _tenant_limits(config: ServerConfig) -> TenantLimits:
    return TenantLimits(
        areas_max=config.tenant_areas_max,
        slots_max=config.tenant_slots_max,
        requests_max=config.tenant_requests_max,
        streams_max=config.tenant_streams_max,
        pool_bytes_max=config.tenant_pool_limit,
    )
