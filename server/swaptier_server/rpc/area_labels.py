"""Which areas stand by name on /metrics: so many names an hour of each tenant, and the rest of its areas as one.

Touches nothing: the time is an argument. A name is a label of some 45 series, and Prometheus keeps each for weeks: a
caller that opens areas under ever new names would fill its memory. Hosts keep the names of their areas.
"""

from collections.abc import Iterable
from typing import Final

from swaptier_server.access.tenants import SEPARATOR, tenant_of
from swaptier_server.rpc.snapshot import AreaSnapshot

OTHERS: Final = "(others)"
"""Stands for the areas of a tenant that have no label of their own."""
NAMES_SECONDS: Final = 3600.0
"""How long a name that is gone keeps its place."""


class AreaLabels:
    """The names that are labels now."""

    def __init__(self, names_max: int, *, has_tenants: bool) -> None:
        """Give each tenant, or all callers together where there are none, *names_max* names."""
        self._names_max: Final = names_max
        self._has_tenants: Final = has_tenants
        self._seen_ns: Final[dict[str | None, dict[str, int]]] = {}
        """When each label was last given, by tenant."""

    def merged(self, areas: Iterable[AreaSnapshot], now_ns: int) -> list[AreaSnapshot]:
        """Return *areas*, those without a label of their own added up."""
        self._forget(now_ns - round(NAMES_SECONDS * 1e9))
        merged: dict[str, AreaSnapshot] = {}
        for area in areas:
            label = self._label(area.name, now_ns)
            merged[label] = _added(merged[label], area) if label in merged else area._replace(name=label)
        return list(merged.values())

    def _label(self, name: str, now_ns: int) -> str:
        tenant = tenant_of(name) if self._has_tenants else None
        names = self._seen_ns.setdefault(tenant, {})
        if name in names or len(names) < self._names_max:
            names[name] = now_ns
            return name if name.isprintable() else ascii(name)[1:-1]
        return OTHERS if tenant is None else f"{tenant}{SEPARATOR}{OTHERS}"

    def _forget(self, latest_ns: int) -> None:
        for tenant, names in list(self._seen_ns.items()):
            for name in [name for name, seen_ns in names.items() if seen_ns <= latest_ns]:
                del names[name]
            if not names:
                del self._seen_ns[tenant]


def _added(one: AreaSnapshot, other: AreaSnapshot) -> AreaSnapshot:
    """Return both as one, under the name of the first."""
    return one._replace(
        stored_pages=one.stored_pages + other.stored_pages,
        same_filled_pages=one.same_filled_pages + other.same_filled_pages,
        pool_bytes=one.pool_bytes + other.pool_bytes,
        handed_off_pages=one.handed_off_pages + other.handed_off_pages,
        device_pages=one.device_pages + other.device_pages,
        counters=tuple(
            mine._replace(value=mine.value + theirs.value)
            for mine, theirs in zip(one.counters, other.counters, strict=True)
        ),
    )
