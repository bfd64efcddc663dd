"""What an error of the kernel under the swap file means: SQLite does not say which it was."""

import errno
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from swaptier_server.tier.device import DeviceFault

STORE_WHILE_WRITES_FAIL = """
import ctypes, os, struct, sys
from pathlib import Path
from swaptier_server.swapfile.file import SqliteSwapFile
from swaptier_server.tier.device import DeviceError
from swaptier_server.tier.page import UNWRITTEN, stored_page
from swaptier_server.tier.swap_file import Client, SavedArea
from swaptier_wire.types import AreaOptions

path, error, write, pwrite = sys.argv[1], *map(int, sys.argv[2:])
device = SqliteSwapFile(Path(path)).open_area(SavedArea("a", Client("host", 1), 8, AreaOptions()), ())
page = stored_page(os.urandom(4096), 1, 1)
device.write([(0, page)])

LOAD, IS, IS_MORE, RETURN, FAIL, ALLOW = 0x20, 0x15, 0x25, 0x06, 0x50000 | error, 0x7FFF0000
steps = [
    (LOAD, 0, 0, 0), (IS, 1, 0, write), (IS, 0, 3, pwrite),  # which call it is
    (LOAD, 0, 0, 16), (IS_MORE, 0, 1, 2),  # to no standard stream
    (RETURN, 0, 0, FAIL), (RETURN, 0, 0, ALLOW),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(code))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
try:
    device.write([(1, page)])
except DeviceError as failed:
    print(failed.fault.value, device.read(0) == page, device.read(1) == UNWRITTEN)
"""
CALLS = {"x86_64": (1, 18), "aarch64": (64, 68)}
"""The numbers of write and pwrite64, by machine."""


@pytest.mark.skipif(platform.machine() not in CALLS, reason="the numbers of this machine's system calls are not known")
@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (errno.ENOSPC, DeviceFault.FULL),
        (errno.EDQUOT, DeviceFault.FULL),
        (errno.EFBIG, DeviceFault.FULL),
        (errno.EIO, DeviceFault.IO),
    ],
    ids=lambda value: errno.errorcode.get(value, "") if isinstance(value, int) else None,
)
def test_a_write_that_the_kernel_refuses_is_the_fault_that_it_means(
    tmp_path: Path, error: int, fault: DeviceFault
) -> None:
    """The kernel itself gives the error (seccomp), as it does for a quota that is used up; nothing is changed by it."""
    numbers = [str(number) for number in (error, *CALLS[platform.machine()])]
    command = [sys.executable, "-c", STORE_WHILE_WRITES_FAIL, str(tmp_path / "swap"), *numbers]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == f"{fault} True True\n", done.stderr
