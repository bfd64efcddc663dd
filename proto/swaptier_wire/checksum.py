"""The checksum of a page, carried end to end: taken by the host at the store, checked by the host after the load.

Pure.
"""

import xxhash


def page_checksum(page: bytes) -> int:
    """Return the XXH3-64 of *page*: the check an lz4 block does not carry."""
    return xxhash.xxh3_64_intdigest(page)
