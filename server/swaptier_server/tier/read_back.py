"""What the device gives of a slot, compared with what the tier knows that it should give.

Pure. The tier knows which page the device was given last for each slot, and has the checksum of the slot's current one.
Rules of conduct:
  - Nothing is read from a device but here, so nothing that a device gives is answered, or counted on, uncompared.
  - Other bytes than the tier knows of are an error of the device, whatever the request asks for: counted by cause, and
    noted for the log. Where the tier knows of none, an older page and zeros are what a swap device gives.

No kernel model: swap_read_folio() takes what the disk gives.
"""

from swaptier_server.tier.area import Area
from swaptier_server.tier.device import BadRead, DeviceError, DeviceFault
from swaptier_server.tier.page import DecodeError, StoredPage, decode
from swaptier_server.tier.slot import Slot
from swaptier_wire.types import NO_GENERATION


def read_back(area: Area, offset: int, slot: Slot | None) -> tuple[StoredPage, bytes]:
    """Return what the device has at *offset*, of the known *slot* if there is one, and its page.

    Raises:
        DeviceError: it cannot be read, or is not the page that the device was given last.
        DecodeError: what is there is not a page that was written.
    """
    try:
        stored = area.device.read(offset)
        page = decode(stored)
        if slot is not None:
            _compare(slot, stored)
    except DeviceError as error:
        _note(area, offset, slot, error.fault, str(error))
        raise
    except DecodeError as error:
        _note(area, offset, slot, DeviceFault.DAMAGED, str(error))
        raise
    return stored, page


def device_has(area: Area, slot: Slot) -> bool:
    """Tell whether the device has the slot's current page, which it took, to the last byte."""
    assert slot.is_backed, f"{slot} was not given to the device"
    try:
        read_back(area, slot.offset, slot)
    except (DeviceError, DecodeError):
        return False
    return True


def _compare(slot: Slot, stored: StoredPage) -> None:
    """Refuse *stored* if it is not what the device was given last for *slot*.

    Raises:
        DeviceError: it is not.
    """
    if slot.device_generation == NO_GENERATION:
        return
    if stored.generation != slot.device_generation:
        got = "nothing" if stored.generation == NO_GENERATION else f"generation {stored.generation}"
        raise DeviceError(DeviceFault.DAMAGED, f"it took generation {slot.device_generation} and gives {got}")
    if slot.is_backed and stored.checksum != slot.store_checksum:
        raise DeviceError(DeviceFault.DAMAGED, f"it gives another page as generation {stored.generation}")


def _note(area: Area, offset: int, slot: Slot | None, fault: DeviceFault, why: str) -> None:
    area.counters.device_errors[fault] += 1
    area.bad_reads.note(BadRead(area.name, offset, NO_GENERATION if slot is None else slot.generation, fault, why))
