"""How a page is kept, and that nothing but that page ever comes back."""

import lz4.block
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import noise_of, page_of

from swaptier_server.tier.page import (
    UNWRITTEN,
    DecodeError,
    Lz4,
    Raw,
    SameFilled,
    StoredPage,
    decode,
    encode,
    stored_page,
)
from swaptier_wire.checksum import page_checksum
from swaptier_wire.types import PAGE_BYTES, WORD_BYTES, ZERO_PAGE, Reason, fill_page

WORDS = st.integers(0, 2**64 - 1)


def pages() -> st.SearchStrategy[bytes]:
    """Pages of every kind: repeated words, repeated pieces of any length, noise, and mixtures."""
    repeated = st.binary(min_size=1, max_size=200).map(lambda piece: (piece * PAGE_BYTES)[:PAGE_BYTES])
    noise = st.integers(0, 2**32).map(noise_of)
    mixed = st.tuples(repeated, noise, st.integers(0, PAGE_BYTES)).map(lambda t: t[0][: t[2]] + t[1][t[2] :])
    return st.one_of(WORDS.map(fill_page), repeated, noise, mixed)


def kept(page: bytes) -> StoredPage:
    return stored_page(page, page_checksum(page), 1)


@given(pages())
def test_every_page_comes_back_as_it_was(page: bytes) -> None:
    assert decode(kept(page)) == page


@given(pages())
def test_no_page_takes_more_bytes_than_a_page(page: bytes) -> None:
    stored = kept(page)
    assert 0 <= stored.length <= PAGE_BYTES
    assert (stored.length == 0) == isinstance(stored.encoded, SameFilled)


@given(WORDS)
def test_a_page_that_repeats_one_word_takes_no_bytes(word: int) -> None:
    assert encode(fill_page(word)) == SameFilled(word)
    assert kept(fill_page(word)).length == 0


@given(WORDS, st.integers(0, PAGE_BYTES - 1), st.integers(1, 255))
def test_a_page_that_differs_in_one_byte_is_not_same_filled(word: int, position: int, change: int) -> None:
    page = bytearray(fill_page(word))
    page[position] ^= change
    assert not isinstance(encode(bytes(page)), SameFilled)


def test_a_page_that_repeats_something_longer_than_a_word_is_not_same_filled() -> None:
    assert isinstance(encode(b"abcdefgh12345678" * (PAGE_BYTES // 16)), Lz4)


def test_a_page_that_lz4_does_not_make_shorter_is_kept_as_it_is() -> None:
    page = noise_of(0)
    assert isinstance(encode(page), Raw)
    assert kept(page).length == PAGE_BYTES


def test_the_word_of_a_same_filled_page_is_little_endian() -> None:
    assert encode(b"\x01" + bytes(WORD_BYTES - 1) + ZERO_PAGE[WORD_BYTES:]) != SameFilled(1), "one word is not a page"
    assert encode((b"\x01" + bytes(WORD_BYTES - 1)) * (PAGE_BYTES // WORD_BYTES)) == SameFilled(1)


@pytest.mark.parametrize("length", [0, 1, PAGE_BYTES - 1, PAGE_BYTES + 1, 2 * PAGE_BYTES])
def test_only_whole_pages_are_encoded(length: int) -> None:
    with pytest.raises(AssertionError, match="a page is 4096 bytes"):
        encode(bytes(length))


def test_an_unwritten_device_slot_reads_as_zeros_that_nobody_stored() -> None:
    assert decode(UNWRITTEN) == ZERO_PAGE
    assert UNWRITTEN.generation == 0


# Damage. Whatever happens to a kept page: the page that was stored, or an error. Never other bytes.


@given(st.integers(0, 2**32), st.data())
def test_a_flipped_bit_in_a_block_never_gives_another_page(seed: int, data: st.DataObject) -> None:
    page = page_of(seed)
    stored = kept(page)
    assert isinstance(stored.encoded, Lz4)
    block = bytearray(stored.encoded.block)
    position = data.draw(st.integers(0, len(block) * 8 - 1))
    block[position // 8] ^= 1 << position % 8
    try:
        after = decode(stored._replace(encoded=Lz4(bytes(block))))
    except DecodeError:
        return
    assert after == page, "a flip may have no effect, but not another page"


@given(st.binary(max_size=200))
def test_a_block_of_anything_is_an_error(block: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(kept(page_of(0))._replace(encoded=Lz4(block)))


def test_a_block_that_was_cut_off_is_an_error() -> None:
    stored = kept(page_of(0))
    assert isinstance(stored.encoded, Lz4)
    for length in range(len(stored.encoded.block)):
        with pytest.raises(DecodeError):
            decode(stored._replace(encoded=Lz4(stored.encoded.block[:length])))


def test_a_block_of_a_shorter_page_fails_to_decompress() -> None:
    for length in (1, 8, PAGE_BYTES - 1):
        block = Lz4(lz4.block.compress(ZERO_PAGE[:length], store_size=False))
        with pytest.raises(DecodeError) as caught:
            decode(kept(ZERO_PAGE)._replace(encoded=block))
        assert caught.value.reason is Reason.DECOMPRESS


def test_a_block_of_a_longer_page_fails_to_decompress() -> None:
    block = Lz4(lz4.block.compress(bytes(PAGE_BYTES + 1), store_size=False))
    with pytest.raises(DecodeError) as caught:
        decode(kept(ZERO_PAGE)._replace(encoded=block))
    assert caught.value.reason is Reason.DECOMPRESS


def test_another_page_fails_its_checksum() -> None:
    for other in (SameFilled(7), Raw(noise_of(2)), encode(page_of(2))):
        with pytest.raises(DecodeError) as caught:
            decode(kept(page_of(1))._replace(encoded=other))
        assert caught.value.reason is Reason.CHECKSUM


def test_the_error_says_no_byte_of_the_page() -> None:
    with pytest.raises(DecodeError) as caught:
        decode(kept(page_of(0))._replace(encoded=Raw(noise_of(0))))
    assert str(caught.value) == "a stored page is damaged (checksum); its content is unknown, the entry is kept"


def test_without_its_checksum_a_flipped_bit_would_give_another_page() -> None:
    """The negative control of those above: most single flips decompress silently to something else."""
    page = noise_of(0)[: PAGE_BYTES // 2] * 2
    block = encode(page)[0]
    assert isinstance(block, bytes)
    silent = 0
    for position in range(0, len(block) * 8, 31):
        flipped = bytearray(block)
        flipped[position // 8] ^= 1 << position % 8
        try:
            after = lz4.block.decompress(bytes(flipped), uncompressed_size=PAGE_BYTES)
        except lz4.block.LZ4BlockError:
            continue
        silent += len(after) == PAGE_BYTES and after != page
    assert silent > 100
