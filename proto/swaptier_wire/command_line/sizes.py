"""A number of bytes as a user would write it.

Pure.
"""

UNITS = (
    *((f"{letter}iB", 1024**power) for power, letter in reversed([*enumerate("KMGTP", 1)])),
    *((f"{letter}B", 1000**power) for power, letter in reversed([*enumerate("KMGTP", 1)])),
)
"""The largest of each kind first."""


def size_text(size: int) -> str:
    """Return *size* exactly, in the largest unit that divides it: 64MiB, 1GB, 1536MiB, 100."""
    for unit, unit_bytes in UNITS:
        if size and size % unit_bytes == 0:
            return f"{size // unit_bytes}{unit}"
    return f"{int(size)}"
