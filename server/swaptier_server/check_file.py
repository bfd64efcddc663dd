"""`swaptier-server check-file`: what is in a swap file, what of that is damaged, and what a server would lose of it.

Touches the file, to read it. A page's bytes are never shown.
"""

from collections.abc import Iterator
from pathlib import Path

from swaptier_server.swapfile.inspection import AreaInspection, Inspection, NoRoomToCopy, SwapFileInUse, inspect
from swaptier_server.swapfile.place import SwapFileUnusable
from swaptier_server.swapfile.record import Findings
from swaptier_wire.process.endings import one_line
from swaptier_wire.process.exit_status import ExitStatus


def check_file(path: Path) -> tuple[int, list[str]]:
    """Return the status for the file at *path*, and the lines that say why; where it cannot be told, one line."""
    try:
        found = inspect(path)
    except SwapFileUnusable as error:
        return ExitStatus.USAGE, [str(error)]
    except SwapFileInUse as error:
        return ExitStatus.UNREACHABLE, [str(error)]
    except NoRoomToCopy as error:
        return ExitStatus.NOT_WRITTEN, [str(error)]
    except OSError as error:
        return ExitStatus.USAGE, [f"{path}: {error.strerror}"]
    status = ExitStatus.AS_SPECIFIED if found.is_whole else ExitStatus.VERDICT
    return status, [one_line(line) for line in _lines(path, found)]


def _lines(path: Path, found: Inspection) -> Iterator[str]:
    log = f", log of {found.log_bytes} bytes with {found.log_pages} changes" if found.log_bytes else ""
    yield f"{path}: format {found.format or 'unknown'}, epoch {found.epoch}, {found.file_bytes} bytes{log}"
    for inspected in found.areas:
        area = inspected.area
        yield (
            f"area {area.name!r} of client {area.client.id!r}, epoch {area.client.epoch}: {area.slots} slots, "
            f"{inspected.pages} pages, {inspected.page_bytes} bytes"
        )
    if found.is_whole:
        yield "whole: a server starts on it and has all of this"
        return
    for what in (found.refusal, *_of_file(found.findings), *map(_of_pages, found.areas)):
        if what is not None:
            yield f"damaged: {what}"
    yield f"lost: {_lost(found)}"


def _of_file(findings: Findings) -> Iterator[str]:
    if findings.torn_log_pages:
        yield f"the last {findings.torn_log_pages} changes in the log are torn; the file is as it was before them"
    if findings.record is not None:
        yield f"the server's row is {findings.record}"
    if findings.damaged_areas:
        yield f"the rows of {findings.damaged_areas} areas are not what was written"
    if findings.missing_areas:
        yield f"the rows of {findings.missing_areas} areas are not there"
    for name in findings.closed_areas:
        yield f"area {name!r} is there again, which had been closed or replaced"
    if findings.stray_pages:
        yield f"{findings.stray_pages} pages are of no area that was open or closed"


def _of_pages(inspected: AreaInspection) -> str | None:
    if not inspected.damaged_pages:
        return None
    slots = ", ".join(map(str, inspected.damaged_slots))
    more = ", and others" if inspected.damaged_pages > len(inspected.damaged_slots) else ""
    return f"{inspected.damaged_pages} pages of area {inspected.area.name!r}: slots {slots}{more}"


def _lost(found: Inspection) -> str:
    """Return what a server that is started on the file does not have."""
    pages = sum(area.pages for area in found.areas)
    if found.refusal is not None:
        readable = f"{pages} pages of {len(found.areas)} areas can be read" if found.format else "nothing was read"
        return f"no server starts on it; {readable}. Keep it; start on a copy made by backup, or on a new file"
    damaged = sum(area.damaged_pages for area in found.areas)
    areas = found.findings.damaged_areas + found.findings.missing_areas
    return (
        f"{damaged} pages, and {areas} areas with all of theirs; a server starts on it and has {pages} pages of "
        f"{len(found.areas)} areas"
    )
