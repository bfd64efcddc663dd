"""What a server does every second: it beats its clock, reads files that changed, and ends what had its time.

Touches the event loop, and by its parts the files that they read. Rules of conduct:
  - The clock's beat waits for nothing but the loop. Else a busy swap file would make every beat late, and nothing would
    expire.
  - Files are looked at before the swap file is waited for: who lost access is not served because a disk is slow.
  - What takes milliseconds is done in steps, with the requests that came meanwhile in between.
"""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final

from structlog.stdlib import BoundLogger

from swaptier_server.access.access import Access
from swaptier_server.access.scrapers import MetricsScrapers
from swaptier_server.access.tenants import tenant_of
from swaptier_server.access.tls import Tls
from swaptier_server.backing import SwapFileWatch, Upkeep
from swaptier_server.errors import ConfigError
from swaptier_server.logs import get_log
from swaptier_server.rpc.activity import ClientActivity
from swaptier_server.rpc.callers import Callers
from swaptier_server.rpc.descriptors import DescriptorWatch
from swaptier_server.rpc.traffic import Traffic
from swaptier_server.shares import Shares
from swaptier_server.tier.tier import Tier
from swaptier_wire.awake import AwakeClock
from swaptier_wire.errors import LimitReached

REAP_SECONDS_MAX: Final = 15.0
"""Idle areas are looked for this often, or four times in --area-idle-seconds."""
HOUSEKEEPING_SECONDS: Final = 1.0
"""How soon a changed file is noticed; a look costs some microseconds."""
BEAT_SECONDS_MAX: Final = 1.25
"""From one beat to the next. What comes later says that this process was stopped, or its loop held up."""


class Credentials:
    """Who is let in, as the files say it now."""

    def __init__(
        self,
        access: Access,
        tls: Tls | None,
        scrapers: MetricsScrapers,
        traffic: Traffic,
        callers: Callers,
        shares: Shares,
    ) -> None:
        """Keep *access*, *tls*, *scrapers* and *shares* up to date; end calls of *traffic* that are let in no more.

        Watch *callers*.
        """
        self._access: Final = access
        self._tls: Final = tls
        self._scrapers: Final = scrapers
        self.traffic: Final = traffic
        self.callers: Final = callers
        self._shares: Final = shares
        self._log: Final = get_log()

    @property
    def are_asked_for(self) -> bool:
        """The server asks who calls: names of areas begin with the tenant's."""
        return self._access.is_asking

    def look(self) -> None:
        """Read what has changed, and say what has to be said."""
        self.reload(is_forced=False)
        if refusals := self._access.take_refusals():
            self.callers.log.of(None, "calls_refused").info("calls_refused", **refusals._asdict())
        self.callers.look(0 if self._tls is None else self._tls.take_handshakes())
        if self._tls is not None:
            self._tls.say_if_it_ends(datetime.now(UTC))

    def reload(self, *, is_forced: bool) -> None:
        """Read certificates and tokens again, all of them or those that have changed.

        What cannot be used is logged, and the old stays in use. Calls that what is good no longer lets in are ended.
        """
        try:
            if self._tls is not None and self._tls.refresh(is_forced=is_forced):
                self._access.authorities.replace(self._tls.material.authorities)
                self._log.info("certificate_reloaded", expires=self._tls.material.expires.isoformat())
        except ConfigError as error:
            self._log.error("reload_failed", reason=str(error), meaning="the old certificate stays in use")
        try:
            if self._access.refresh(is_forced=is_forced):
                self._log.info("tokens_reloaded", tokens=len(self._access.tokens or ()))
        except ConfigError as error:
            self._log.error("reload_failed", reason=str(error), meaning="the old tokens stay in use")
        try:
            if self._scrapers.refresh(is_forced=is_forced):
                self._log.info("metrics_access_reloaded")
        except ConfigError as error:
            self._log.error("reload_failed", reason=str(error), meaning="the old files stay in use")
        self._shares.look()
        if ended := self.traffic.end_unwanted(self._access.objection):
            self._log.info("calls_ended", calls=ended, meaning="what let them in has expired or was withdrawn")


class Housekeeper:
    """Does what has to be done now and then."""

    def __init__(
        self,
        tier: Tier,
        activity: ClientActivity,
        credentials: Credentials,
        upkeep: Upkeep,
        swap_file_watch: SwapFileWatch | None,
        awake: AwakeClock,
        now_ns: Callable[[], int],
        *,
        area_idle_seconds: float,
    ) -> None:
        """Beat *awake*; end by *now_ns* what had its time."""
        self._tier: Final = tier
        self._activity: Final = activity
        self._credentials: Final = credentials
        self._traffic: Final = credentials.traffic
        self._caller_log: Final = credentials.callers.log
        self._upkeep: Final = upkeep
        self._swap_file_watch: Final = swap_file_watch
        self._awake: Final = awake
        self._now_ns: Final = now_ns
        self._idle_ns: Final = round(area_idle_seconds * 1e9)
        self._descriptors: Final = DescriptorWatch(now_ns)
        self._reaped_ns = now_ns()
        self._is_due: Final = asyncio.Event()
        self._log: Final = get_log()
        self.areas_expired = 0
        """Areas forgotten because their client was idle."""

    def reload(self) -> None:
        """Read certificates and tokens again, changed or not."""
        self._credentials.reload(is_forced=True)

    def keep_house(self) -> None:
        """Do all that may be due, in one go."""
        self._look_around()
        self._look_at_the_swap_file()
        for _ in self._expire():
            continue

    async def beat_forever(self) -> None:
        """Beat every second, and have the house kept after each beat."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            self.beat()
            self._is_due.set()

    def beat(self) -> None:
        """Say to the clock that the loop runs, and in the log for how long it did not."""
        if seconds := self._awake.beat():
            self._caller_log.of(None, "was_stopped").warning(
                "was_stopped",
                seconds=round(seconds, 3),
                meaning="nothing expires before what came meanwhile is read, and that time counts for no one",
            )

    async def keep_house_forever(self) -> None:
        """Keep house after each beat, as soon as the swap file can be used."""
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            try:
                await self.keep_house_in_steps()
            except Exception:  # noqa: BLE001 - a defect of ours must not end what expires leases and reads files again
                self._log.exception("housekeeping_failed", meaning="what was to be done now is tried again in a second")

    async def keep_house_in_steps(self) -> None:
        """Do what is due, with requests in between; nothing expires while what was sent has not been read."""
        self._look_around()
        await self._upkeep.quiet()
        self._look_at_the_swap_file()
        if self._awake.is_settled:
            for _ in self._expire():
                self._upkeep.after_request()
                await asyncio.sleep(0)
                await self._upkeep.quiet()

    def _look_around(self) -> None:
        """See what changed outside the swap file, and say what has to be said."""
        self._credentials.look()
        self._descriptors.look()
        self._upkeep.say_bad_reads()

    def _look_at_the_swap_file(self) -> None:
        if self._swap_file_watch is not None:
            self._swap_file_watch.look()

    def _expire(self) -> Iterator[str]:
        """End what had its time: leases, requests that do not come, and areas, whose names it yields, one a step."""
        if ended := self._upkeep.end_leases():
            log = self._caller_log.of(None, "leases_ended")
            log.info("leases_ended", pages=ended, meaning="claimed, not acknowledged, and the tier's again")
        self._upkeep.keep_house()
        if late := self._traffic.end_late_requests():
            self._caller_log.of(None, "late_requests_ended").warning("late_requests_ended", requests=late)
        reap_ns = min(round(REAP_SECONDS_MAX * 1e9), self._idle_ns // 4)
        if self._idle_ns > 0 and self._now_ns() >= self._reaped_ns + reap_ns:
            self._reaped_ns = self._now_ns()
            yield from self.reap_idle_areas()

    def _log_of(self, area: str, event: str) -> BoundLogger:
        """Return the log for one line *event* that the tenant of *area* caused."""
        return self._caller_log.of(tenant_of(area) if self._credentials.are_asked_for else None, event)

    def reap_idle_areas(self) -> Iterator[str]:
        """Forget the areas of clients that are gone, one a step; yield their names."""
        owners = {name: area.client for name, area in self._tier.areas.items()}
        for name in self._activity.expired_areas(owners, self._now_ns(), self._idle_ns):
            area = self._tier.areas.get(name)
            if area is None or area.is_in_message:  # one that waits for a slow disk is no silence
                continue
            if not self._activity.is_idle(area.client, self._now_ns(), self._idle_ns):
                continue
            device_pages = area.device_pages
            try:
                pool_pages = self._tier.drop_area(name)
            except LimitReached as error:  # the swap file cannot be written now
                self._log_of(name, "area_not_expired").error("area_not_expired", area=name, reason=str(error))
                continue
            self.areas_expired += 1
            self._log_of(name, "area_expired").warning(
                "area_expired",
                area=name,
                client=area.client.id,
                client_epoch=area.client.epoch,
                dropped_pool_pages=pool_pages,
                dropped_device_pages=device_pages,
                idle_seconds=self._idle_ns / 1e9,
            )
            yield name
        self._activity.forget_strangers({name: area.client for name, area in self._tier.areas.items()})
