"""Where page contents come from: files of this machine, cut into pages. Reads files, nothing else.

The default is what the running interpreter maps: its own binary and its libraries. Machine code, tables and strings
compress about as well as the anonymous memory of real programs, and every machine that can run this has them.
"""

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from swaptier_loadgen.host.content import cut
from swaptier_wire.types import PAGE_BYTES

CORPUS_PAGES_MAX = 4096
"""16 MiB a host: many times what a pool of default size holds compressed. A larger corpus is sampled evenly."""

CORPUS_FILES_MAX = 10_000
"""Files looked at in a folder, so that one like / is no walk through all that the machine has."""


class CorpusUnreadable(Exception):
    """The corpus cannot be read or has no page in it. The message names the file."""


def corpus_files(path: Path | None) -> list[Path]:
    """Return the files to cut: *path* itself, all regular files below it, or the interpreter's own for None.

    Raises:
        CorpusUnreadable: nothing is there, or nothing that could be read as a file.
    """
    if path is None:
        return _interpreter_files()
    try:
        if path.is_dir():
            found = sorted(islice((file for file in path.rglob("*") if file.is_file()), CORPUS_FILES_MAX))
            if not found:
                raise CorpusUnreadable(f"the corpus folder {path} has no files in it")
            return found
        if path.is_file():
            return [path]
        what = "is neither a file nor a folder: each host reads it anew" if path.exists() else "does not exist"
    except OSError as error:
        raise CorpusUnreadable(f"the corpus {path} cannot be read: {error.strerror}") from error
    raise CorpusUnreadable(f"the corpus {path} {what}")


def read_corpus(files: Sequence[Path], *, pages_max: int = CORPUS_PAGES_MAX) -> list[bytes]:
    """Return up to *pages_max* pages of *files*, spread evenly over all of them.

    Raises:
        CorpusUnreadable: a file cannot be read, or all are empty.
    """
    try:
        sizes = [file.stat().st_size for file in files]
        pages_total = sum(-(-size // PAGE_BYTES) for size in sizes)
        if pages_total == 0:
            raise CorpusUnreadable(f"the corpus has no bytes in it: {', '.join(map(str, files[:3]))}")
        stride = -(-pages_total // pages_max)
        pages: list[bytes] = []
        for file, size in zip(files, sizes, strict=True):
            with file.open("rb") as opened:
                for start in range(0, size, stride * PAGE_BYTES):
                    opened.seek(start)
                    pages.extend(cut(opened.read(PAGE_BYTES)))
    except OSError as error:
        raise CorpusUnreadable(f"the corpus file {error.filename} cannot be read: {error.strerror}") from error
    return pages[:pages_max]


def _interpreter_files() -> list[Path]:
    """Return the interpreter's binary and the shared libraries this process maps, in order of their names."""
    files = {Path(sys.executable).resolve()}
    for line in Path("/proc/self/maps").read_text().splitlines():
        _, _, mapped = line.partition("/")
        path = Path("/" + mapped)
        if mapped and ".so" in path.name and path.is_file():
            files.add(path)
    return sorted(files)
