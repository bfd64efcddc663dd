"""Where page contents come from."""

from pathlib import Path

import pytest

from swaptier_loadgen.host.corpus import CORPUS_PAGES_MAX, CorpusUnreadable, corpus_files, read_corpus
from swaptier_wire.types import PAGE_BYTES


def test_the_default_is_the_running_interpreter() -> None:
    """Its binary and libraries give many different pages, the same each time."""
    pages = read_corpus(corpus_files(None))
    assert 500 < len(pages) <= CORPUS_PAGES_MAX
    assert len(set(pages)) > len(pages) // 2
    assert pages == read_corpus(corpus_files(None))


def test_a_folder_is_all_its_files_in_order_of_their_names(tmp_path: Path) -> None:
    """Below it, too; empty files add nothing."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two").write_bytes(b"2" * 5000)
    (tmp_path / "a").write_bytes(b"1" * PAGE_BYTES)
    (tmp_path / "c").write_bytes(b"")
    files = corpus_files(tmp_path)
    assert [file.name for file in files] == ["a", "two", "c"]
    assert read_corpus(files) == [b"1" * PAGE_BYTES, b"2" * PAGE_BYTES, (b"2" * 904).ljust(PAGE_BYTES, b"\0")]


def test_a_large_corpus_is_sampled_from_end_to_end(tmp_path: Path) -> None:
    """A hundred pages cut to ten still come from all over the file."""
    file = tmp_path / "large"
    file.write_bytes(b"".join(number.to_bytes(2, "big") * (PAGE_BYTES // 2) for number in range(100)))
    assert [page[1] for page in read_corpus([file], pages_max=10)] == list(range(0, 100, 10))


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    """Nothing there, an empty folder, an empty file, a device: each says which and why."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing").write_bytes(b"")
    for path, why in (
        (tmp_path / "absent", "does not exist"),
        (tmp_path / "empty", "no files"),
        (tmp_path / "nothing", "no bytes"),
        (Path("/dev/zero"), "neither a file nor a folder"),
    ):
        with pytest.raises(CorpusUnreadable, match=why) as refused:
            read_corpus(corpus_files(path))
        assert str(path) in str(refused.value)


def test_a_file_that_goes_away_is_named(tmp_path: Path) -> None:
    """Between finding and reading."""
    with pytest.raises(CorpusUnreadable, match="gone"):
        read_corpus([tmp_path / "gone"])
