"""The swapfile's semantics: a read never fails for want of a write."""

from swaptier_server.tier.device import MemoryDevice
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
