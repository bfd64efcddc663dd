"""Page contents: every page says who wrote it, where and which version, and nothing else can pass for it."""

import lz4.block
from hypothesis import given
from hypothesis import strategies as st

from swaptier_loadgen.host.content import (
    HOSTS_MAX,
    PROCESS_PAGES_MAX,
    PROCESSES_MAX,
    WORD_VERSIONS_MAX,
    Contents,
    PageId,
    Stamp,
    cut,
    read_stamp,
)
from swaptier_wire.types import PAGE_BYTES, ZERO_PAGE, fill_page

CORPUS = list(cut(bytes(range(256)) * 64))
CONTENTS = Contents(7, CORPUS)

pages = st.builds(
    PageId,
    st.integers(0, HOSTS_MAX - 1),
    st.integers(0, PROCESSES_MAX - 1),
    st.integers(0, PROCESS_PAGES_MAX - 1),
)
versions = st.one_of(st.integers(1, 40), st.integers(1, 1 << 40), st.just(WORD_VERSIONS_MAX))


@given(pages, versions)
def test_every_page_says_who_wrote_it_where_and_which_version(page: PageId, version: int) -> None:
    """A written page is PAGE_BYTES long, is never zeros, and its stamp reads back, whatever its kind."""
    content = CONTENTS.page(page, version)
    assert len(content) == PAGE_BYTES
    assert content != ZERO_PAGE
    assert read_stamp(content) == Stamp(page, version)


@given(pages, versions, pages, versions)
def test_two_pages_or_versions_never_have_the_same_bytes(a: PageId, va: int, b: PageId, vb: int) -> None:
    """Bytes are equal only when page and version are."""
    assert (CONTENTS.page(a, va) == CONTENTS.page(b, vb)) == ((a, va) == (b, vb))


@given(pages, versions, st.integers(0, PAGE_BYTES * 8 - 1))
def test_one_flipped_bit_voids_the_stamp(page: PageId, version: int, bit: int) -> None:
    """A damaged page passes for no page at all, wherever the damage is."""
    damaged = bytearray(CONTENTS.page(page, version))
    damaged[bit // 8] ^= 1 << bit % 8
    assert read_stamp(bytes(damaged)) is None


def test_version_zero_is_the_zero_page_and_carries_no_stamp() -> None:
    """A page that was never written reads zeros, and zeros say nothing of themselves."""
    assert CONTENTS.page(PageId(0, 0, 0), 0) == ZERO_PAGE
    assert read_stamp(ZERO_PAGE) is None


def test_a_same_filled_page_without_our_tag_is_not_taken_for_a_stamp() -> None:
    """Any repeated word but a stamp word is unrecognised."""
    assert read_stamp(fill_page(0x1122334455667788)) is None


def test_the_same_seed_and_corpus_build_the_same_pages_and_another_seed_does_not() -> None:
    """Contents depend on seed and corpus alone."""
    page = PageId(1, 2, 3)
    again, other = Contents(7, CORPUS), Contents(8, CORPUS)
    assert [again.page(page, v) for v in range(50)] == [CONTENTS.page(page, v) for v in range(50)]
    assert [other.page(page, v) for v in range(1, 50)] != [CONTENTS.page(page, v) for v in range(1, 50)]


def test_all_three_kinds_of_page_occur() -> None:
    """Of 1000 pages some are same-filled, some incompressible and most compress."""
    contents = [CONTENTS.page(PageId(0, 1, address), 1) for address in range(1000)]
    same_filled = sum(page == page[:8] * (PAGE_BYTES // 8) for page in contents)
    incompressible = sum(len(lz4.block.compress(page, store_size=False)) >= PAGE_BYTES for page in contents)
    assert 50 < same_filled < 200
    assert 50 < incompressible < 200


@given(st.binary(max_size=3 * PAGE_BYTES))
def test_cutting_keeps_every_byte_and_fills_the_last_page_with_zeros(data: bytes) -> None:
    """The pages joined are the data and fewer than PAGE_BYTES zeros."""
    joined = b"".join(cut(data))
    assert joined[: len(data)] == data
    assert joined[len(data) :] == bytes(-len(data) % PAGE_BYTES)
