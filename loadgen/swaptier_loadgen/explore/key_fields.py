"""Which fields of mm's objects a state's key holds, and which it leaves out because no branch reads them.

Pure.
"""

SLOT_FIELDS_LEFT_OUT = frozenset(
    ("duplication", "entry_bytes", "is_storing", "owners", "pool_loads", "was_rescued")  # only counters read them
)
SLOT_FIELDS_WRITTEN = frozenset(
    ("claim_id", "count", "entry", "folio", "generation", "has_cache", "in_doubt", "in_pool", "is_freeing", "is_zero",
     "lost", "on_device", "queue", "reader")
)  # fmt: skip
FOLIO_FIELDS_LEFT_OUT = frozenset(("backed_checksum",))
FOLIO_FIELDS_WRITTEN = frozenset(
    ("content", "dirty", "entry", "is_locked", "lock_queue", "mappings", "read_error", "readahead", "referenced",
     "refs", "source", "uptodate")
)  # fmt: skip
"""Held to the classes by a test: who adds a field decides here whether a branch reads it."""
