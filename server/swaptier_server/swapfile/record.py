"""What a swap file says of its areas, and what is believed of it when its parts contradict each other.

Pure. The server's row is the record. It changes with the areas' rows, in one transaction, so the two disagree only when
the medium lost a write, brought one back, or was changed by hand. Rules of conduct:
  - Nothing is served of an area that is not certain to be open: it is left out, and said.
  - An area that the record does not know was closed, unless its number is above all that the record knows: then the
    record is the older of the two.
  - Numbers only rise, and an area ends those of its name, and those of its client's earlier lives. So of two that
    cannot both be open, the later one is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from swaptier_server.swapfile.rows import AreaRow, Record, area_of


@dataclass
class Findings:
    """What an earlier server left that is not as it left it. False when there is nothing of that."""

    damaged_areas: int = 0
    """Areas whose row is not what was written. It stays, with its pages."""
    missing_areas: int = 0
    """Areas on record without a row."""
    closed_areas: list[str] = field(default_factory=list)
    """Areas whose row was there again although they had been closed or replaced, by name. It was deleted."""
    damaged_pages: int = 0
    """Pages of open areas that are not what was written there. Each stays until its slot is stored anew."""
    stray_pages: int = 0
    """Pages of no area that was open or closed. They were deleted."""
    record: str | None = None
    """What is wrong with the server's row."""
    torn_log_pages: int = 0
    """Of SQLite, at the end of the log, behind a write that was lost or damaged. The file is as it was before them."""

    def __bool__(self) -> bool:
        return self != Findings()


@dataclass
class Reconciled:
    """What is believed."""

    record: Record
    areas: dict[str, AreaRow]
    """Those that are open, by name, in the order in which they were opened."""
    kept: set[int]
    """Numbers whose pages stay: of open areas, and of those whose row is damaged."""
    closed: list[int]
    """Numbers of the rows to be deleted."""
    known: Record | None
    """The record as it was found; None when it is damaged."""
    findings: Findings

    def is_closed(self, number: int) -> bool:
        """Tell whether an area of this *number*, which is not kept, was closed: its pages are only not yet deleted."""
        return self.known is not None and 0 < number <= self.known.last_number and number not in self.known.areas


def reconcile(known: Record | None, rows: Sequence[Sequence[object]], file: int) -> Reconciled:
    """Return what is to be believed of the *known* record of *file*, None if damaged, and the *rows* of all areas.

    Raises:
        UnknownOptions: a later version opened one of them.
    """
    findings = Findings()
    whole = [area for row in rows if (area := area_of(row, file)) is not None]
    on_record = {} if known is None else known.areas
    damaged = {number for number, *_ in rows if isinstance(number, int)} - {area.number for area in whole}
    findings.damaged_areas = len(rows) - len(whole)
    findings.missing_areas = len(on_record.keys() - damaged - {area.number for area in whole})
    last_number = 0 if known is None else known.last_number
    current = [
        area for area in whole if known is None or area.number > last_number or on_record.get(area.number) == area.seal
    ]
    areas = _one_of_each(current)
    epoch = max((area.server_epoch for area in current), default=0)
    if known is None:
        findings.record = "missing or damaged: which areas had been closed is not known, nor the last server's epoch"
    elif any(area.number > last_number for area in current) or epoch > known.epoch:
        findings.record = "older than areas that are there: it is not the last that was written"
    open_numbers = {area.number for area in areas.values()}
    closed = [area for area in whole if area.number not in open_numbers]
    findings.closed_areas = [area.saved.name for area in closed]
    record = Record(
        max(epoch, 0 if known is None else known.epoch),
        max([last_number, *(area.number for area in current)]),
        {number: seal for number, seal in on_record.items() if number in damaged}
        | {area.number: area.seal for area in areas.values()},
    )
    numbers = [area.number for area in closed]
    return Reconciled(record, areas, open_numbers | damaged, numbers, known, findings)


def _one_of_each(current: Sequence[AreaRow]) -> dict[str, AreaRow]:
    """Return, by name, those that can be open together."""
    lives: dict[str, int] = {}
    for area in current:
        client = area.saved.client
        lives[client.id] = max(client.epoch, lives.get(client.id, 0))
    areas: dict[str, AreaRow] = {}
    for area in sorted(current):
        if area.saved.client.epoch == lives[area.saved.client.id]:
            areas.pop(area.saved.name, None)
            areas[area.saved.name] = area
    return areas
