"""The life of a server: bound, serving, draining, gone.

Touches gRPC, sockets, the event loop and the clock. Order of a drain, and why:
  1. health says NOT_SERVING, so that balancers and probes look elsewhere;
  2. new requests are refused as Draining, which tells a client that they had no effect;
  3. open streams end, each after the answer it is about to give;
  4. what is in flight is finished, for at most --drain-seconds;
  5. the port is closed. An open Health.Watch would hold gRPC's own grace to its end, so that is short.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, Self

from google.protobuf.descriptor import ServiceDescriptor
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from prometheus_client import CollectorRegistry

from swaptier.v1 import swaptier_pb2, swaptier_pb2_grpc
from swaptier_server.activity import ClientActivity
from swaptier_server.addresses import Address
from swaptier_server.config import ConfigError, ServerConfig
from swaptier_server.guard import Guard
from swaptier_server.listening import check_can_listen, explain
from swaptier_server.logs import get_log
from swaptier_server.metrics import MetricsServer, TierCollector, make_registry
from swaptier_server.rpc_metrics import RpcMetrics
from swaptier_server.service import SwapTierService
from swaptier_server.snapshot import LoopSnapshots, TierSnapshot, take_snapshot
from swaptier_server.tier.device import MemoryDevice, SwapDevice
from swaptier_server.tier.tier import Tier, TierLimits
from swaptier_server.traffic import Traffic
from swaptier_wire.types import BATCH_SLOTS_MAX, PAGE_BYTES

SERVICE: Final[str] = swaptier_pb2.DESCRIPTOR.services_by_name["SwapTierService"].full_name
MESSAGE_BYTES_MAX: Final = BATCH_SLOTS_MAX * PAGE_BYTES + 64 * 1024
"""A full batch of pages and its columns, about 30 bytes a slot."""
CONCURRENT_RPCS_MAX: Final = 512
"""Streams and unary calls at once; more are refused with RESOURCE_EXHAUSTED, which beats an unbounded queue."""
LAST_GRACE_SECONDS: Final = 0.5
"""For what a drain cannot end, such as Health.Watch."""
HEALTH_FLIP_SECONDS_MAX: Final = 1.0
"""A watcher that does not read must not hold up the drain."""
REAP_SECONDS_MAX: Final = 15.0
"""Idle areas are looked for this often, or four times in --area-idle-seconds."""

# No grpc.max_connection_age_ms: it would cut every Exchange stream after some minutes, and with it the only copy of
# each page whose exclusive load is being answered.
CHANNEL_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # else a second server on the same port starts silently and splits the store
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_metadata_size", 8_192),
    ("grpc.max_concurrent_streams", 256),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # keepalive alone does not notice a peer that stopped
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),  # else clients that ping are sent away
)


class TierServer:
    """A tier served over gRPC. Made and started by `start()`, ended by `drain()`."""

    def __init__(
        self, config: ServerConfig, epoch: int, now_ns: Callable[[], int], device_for: Callable[[str], SwapDevice]
    ) -> None:
        """Wire the parts together; nothing is bound yet. See `start()`."""
        self.config: Final = config
        self.tier: Final = Tier(
            TierLimits(
                pool_bytes_max=config.pool_limit,
                accept_threshold_percent=config.accept_threshold_percent,
                areas_max=config.areas_max,
                slots_per_area_max=config.slots_per_area_max,
                keeps_incompressible=config.keep_incompressible,
            ),
            epoch,
            device_for,
        )
        self.traffic: Final = Traffic()
        self.activity: Final = ClientActivity()
        self.registry: Final[CollectorRegistry] = make_registry()
        self.areas_expired = 0
        """Areas forgotten because their client was idle."""
        self.listening: Address | None = None
        """The bound address, once started."""
        self.metrics_address: Address | None = None
        """The bound address, once started; None when metrics are off."""
        self._now_ns = now_ns
        self._log = get_log()
        self._health = health.aio.HealthServicer()
        self._metrics: MetricsServer | None = None
        self._reaper: asyncio.Task[None] | None = None
        self._grpc = self._make_grpc_server()

    @classmethod
    async def start(
        cls,
        config: ServerConfig,
        *,
        epoch: int | None = None,
        now_ns: Callable[[], int] = time.monotonic_ns,
        device_for: Callable[[str], SwapDevice] = lambda _name: MemoryDevice(),
    ) -> Self:
        """Return a server that serves.

        *epoch* is the time when it is not given; *now_ns* is a monotonic clock; *device_for* makes the device of an
        area, by name.

        Raises:
            ConfigError: an address cannot be had; nothing was left running.
        """
        server = cls(config, time.time_ns() if epoch is None else epoch, now_ns, device_for)
        try:
            await server._start()
        except BaseException:
            await server._stop()
            raise
        return server

    async def _start(self) -> None:
        self._start_metrics()
        await self._start_grpc()
        for service in ("", SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        if self.config.area_idle_seconds > 0:
            self._reaper = asyncio.create_task(self._reap_forever(), name="area reaper")

    def _start_metrics(self) -> None:
        snapshots = LoopSnapshots(self._take_snapshot)
        self.registry.register(TierCollector(snapshots.from_thread))
        if self.config.metrics.is_off:
            return
        try:
            self._metrics = MetricsServer(self.config.metrics, self.registry)
        except OSError as error:
            raise ConfigError(explain("--metrics", self.config.metrics, error)) from error
        self.metrics_address = self._metrics.address

    async def _start_grpc(self) -> None:
        address = self.config.listen
        check_can_listen("--listen", address)
        try:
            port = self._grpc.add_insecure_port(address)
        except RuntimeError as error:
            # Taken since the check, or something the check does not know.
            raise ConfigError(f"--listen: cannot listen on {address}: gRPC could not bind it") from error
        await self._grpc.start()
        self.listening = address.with_port(port)
        if not address.is_local:
            self._log.warning(
                "plaintext_beyond_this_machine",
                listening=self.listening,
                meaning="pages are memory of other programs; anyone on the network can read and replace them",
                advice="listen on 127.0.0.1 or unix:PATH, or make sure that the network is private",
            )

    def _make_grpc_server(self) -> aio.Server:
        services: list[ServiceDescriptor] = [
            swaptier_pb2.DESCRIPTOR.services_by_name["SwapTierService"],
            health_pb2.DESCRIPTOR.services_by_name["Health"],
            reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
        ]
        guard = Guard(SERVICE, RpcMetrics(self.registry, services), self.traffic)
        server = aio.server(interceptors=[guard], options=CHANNEL_OPTIONS, maximum_concurrent_rpcs=CONCURRENT_RPCS_MAX)
        servicer = SwapTierService(self.tier, self.activity, self.traffic, self._now_ns)
        swaptier_pb2_grpc.add_SwapTierServiceServicer_to_server(servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection([service.full_name for service in services], server)
        return server

    # Idle areas

    def reap_idle_areas(self) -> list[str]:
        """Forget the areas of clients that are gone; return their names."""
        now_ns = self._now_ns()
        owners = {name: area.client for name, area in self.tier.areas.items()}
        expired = self.activity.expired_areas(owners, now_ns, round(self.config.area_idle_seconds * 1e9))
        for name in expired:
            area = self.tier.areas[name]
            device_pages = area.device_pages
            pool_pages = self.tier.drop_area(name)
            self._log.warning(
                "area_expired",
                area=name,
                client=owners[name].id,
                client_epoch=owners[name].epoch,
                dropped_pool_pages=pool_pages,
                dropped_device_pages=device_pages,
                idle_seconds=self.config.area_idle_seconds,
            )
            del owners[name]
        self.areas_expired += len(expired)
        self.activity.forget_strangers(owners)
        return expired

    async def _reap_forever(self) -> None:
        pause = min(REAP_SECONDS_MAX, self.config.area_idle_seconds / 4)
        while True:
            await asyncio.sleep(pause)
            self.reap_idle_areas()

    # The end

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
        await self._stop()
        self._log.info(
            "drained",
            areas=len(held.areas),
            dropped_pool_pages=sum(area.stored_pages for area in held.areas),
            dropped_device_pages=sum(area.device_pages for area in held.areas),
            cut_off=cut_off,
            meaning="pages and devices are held in memory only and are gone now",
        )

    async def _stop(self) -> None:
        """Close everything that is open."""
        if self._reaper is not None:
            self._reaper.cancel()
        await self._grpc.stop(LAST_GRACE_SECONDS)
        if self._metrics is not None:
            await asyncio.to_thread(self._metrics.stop)

    def _take_snapshot(self) -> TierSnapshot:
        is_ready = self.listening is not None and not self.traffic.is_draining
        return take_snapshot(self.tier, areas_expired=self.areas_expired, is_ready=is_ready)
