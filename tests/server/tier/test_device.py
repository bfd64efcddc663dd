"""The swapfile's semantics: a read never fails for want of a write."""

from swaptier_server.tier.device import CHUNK_SLOTS, MemoryDevice
from swaptier_server.tier.page import SameFilled, StoredPage, decode
from swaptier_wire.types import ZERO_PAGE


def test_an_unwritten_slot_reads_zeros_and_succeeds() -> None:
    read = MemoryDevice().read(12345)
    assert decode(read) == ZERO_PAGE
    assert read.generation == 0


def test_a_slot_reads_what_was_written_last_however_often() -> None:
    device = MemoryDevice()
    device.write([(1, StoredPage(SameFilled(1), 0, 1, 1))])
    device.write([(1, StoredPage(SameFilled(2), 0, 2, 2))])
    assert device.read(1) == device.read(1) == StoredPage(SameFilled(2), 0, 2, 2)
    assert device.read(2).generation == 0


def test_a_dropped_slot_reads_as_unwritten_and_can_be_dropped_again() -> None:
    device = MemoryDevice()
    device.write([(1, StoredPage(SameFilled(1), 0, 1, 1))])
    device.drop(1)
    device.drop(1)
    assert decode(device.read(1)) == ZERO_PAGE


def test_a_device_forgets_so_many_pages_at_a_time_wherever_they_are() -> None:
    """All over its slots, which it keeps in chunks."""
    device = MemoryDevice()
    page = StoredPage(SameFilled(1), 0, 1, 1)
    far = [number * (CHUNK_SLOTS // 2) for number in range(10)]
    device.write([(offset, page) for offset in far])
    assert device.written() == dict.fromkeys(far, page)
    device.drop(*far[:2])
    assert [device.forget(3), device.forget(3), device.forget(3), device.forget(3)] == [3, 3, 2, 0]
    assert not device.written()
