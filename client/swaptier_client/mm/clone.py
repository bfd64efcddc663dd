"""A second host with the memory image of a first: a cloned virtual machine, or a migrated one whose source still runs.

Pure. Both then believe that the slots of the same areas are theirs. Each pins a slot in a swap map of its own, so a pin
of one keeps nobody out on the other: only the tier can.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swaptier_client.mm.page_table import SwapPte

if TYPE_CHECKING:
    from swaptier_client.mm.host import Host


class NotQuiescent(Exception):
    """The host has pages in memory or faults under way; swap everything out and let its paths end first."""


def clone_into(twin: Host, original: Host) -> None:
    """Give *twin*, a new host with equal devices, the processes and the swap map that *original* has now.

    Raises:
        NotQuiescent: *original* holds a page, a pin or a running path. Nothing changed.
    """
    assert not twin.processes
    assert [len(device.slots) for device in twin.devices] == [len(device.slots) for device in original.devices]
    slots = [slot for device in original.devices for slot in device.slots]
    if original.resident_pages or any(slot.has_cache for slot in slots):
        raise NotQuiescent(
            f"{original.resident_pages} pages are resident and {sum(slot.has_cache for slot in slots)} slots are in "
            "the swapcache or pinned; a clone is taken of a host at rest. Nothing was cloned"
        )
    for process in original.processes.values():
        copy = twin.spawn()
        assert copy.pid == process.pid, "a clone numbers its processes as the original does"
        for address, pte in process.page_table.items():
            assert isinstance(pte, SwapPte)
            copy.page_table[address] = pte
    for slot in slots:
        mirror = twin.slot(slot.entry)
        mirror.count = slot.count
        mirror.generation = slot.generation
        mirror.in_pool, mirror.on_device, mirror.in_doubt = slot.in_pool, slot.on_device, slot.in_doubt
        mirror.entry_bytes = slot.entry_bytes
        mirror.is_zero, mirror.lost = slot.is_zero, slot.lost
        mirror.owners = list(slot.owners)
    for device in original.devices:
        twin.devices[device.type].free_offsets = list(device.free_offsets)
