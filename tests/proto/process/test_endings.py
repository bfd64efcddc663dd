"""How a program ends, whatever its standard streams are and whatever is raised inside: a status and one line."""

import subprocess
import sys

import pytest

SCRIPT = """
import errno, os, sys
from swaptier_wire.process.endings import to_an_end
def run():
    {body}
sys.exit(to_an_end("program", run))
"""

ENDINGS = {
    "return 0": (0, ""),
    "return 1": (1, ""),
    "raise MemoryError": (6, "program: out of memory"),
    "raise OSError(errno.EMFILE, 'Too many open files')": (6, "program: Too many open files; see ulimit"),
    "raise BrokenPipeError(errno.EPIPE, 'Broken pipe')": (5, "program: a result could not be written: Broken pipe"),
    "raise KeyboardInterrupt": (130, ""),
    "raise ValueError('first\\nsecond')": (
        70,
        "program: a defect of this program, please report it: ValueError: first",
    ),
    "return {}['absent']": (70, "program: a defect of this program, please report it: KeyError: 'absent' (at <string>"),
}


def run_in_shell(body: str, redirections: str = "") -> "subprocess.CompletedProcess[str]":
    """Run a program with *body* in a shell, whose redirections and pipes stand behind it."""
    return subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {redirections}', sys.executable, SCRIPT.format(body=body)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@pytest.mark.parametrize("body", ENDINGS)
def test_each_class_of_ending_has_its_status_and_one_line(body: str) -> None:
    """No traceback."""
    status, line = ENDINGS[body]
    ended = run_in_shell(body)
    assert ended.returncode == status
    assert ended.stderr.startswith(line)
    assert ended.stderr.count("\n") == bool(line)


@pytest.mark.parametrize("how", [">&-", ">/dev/full", "1</dev/null", "| true; exit ${PIPESTATUS[0]}"])
def test_a_result_that_could_not_be_written_is_status_5(how: str) -> None:
    """Whether standard output is closed, full, for reading only, or has no reader; the reason is on standard error."""
    ended = run_in_shell("sys.stdout.write('result ' * 100_000); return 0", how)
    assert ended.returncode == 5, ended.stderr
    assert ended.stderr.startswith("program: standard output could not be written: ")
    assert ended.stderr.count("\n") == 1


def test_another_status_than_0_stands_whatever_could_be_written() -> None:
    """A verdict is not hidden by a full disk."""
    assert run_in_shell("sys.stdout.write('result'); return 1", ">/dev/full").returncode == 1


@pytest.mark.parametrize("how", ["2>&-", "2>/dev/full", "2>&1 | true", "<&- >&- 2>&-", "<&- >/dev/full 2>/dev/full"])
def test_words_that_could_not_be_written_change_no_status(how: str) -> None:
    """A refusal is one without a reader, too."""
    ended = run_in_shell("raise MemoryError", f"{how}; exit ${{PIPESTATUS[0]}}")
    assert ended.returncode == 6
    assert "Traceback" not in ended.stderr + ended.stdout


def test_no_file_of_ours_gets_the_number_of_a_closed_stream() -> None:
    """What is opened first is above 2, and the closed streams fail as closed ones do."""
    body = "return os.open('/dev/null', os.O_RDONLY) > 2 and 40"
    assert run_in_shell(body, "<&- >&- 2>&-").returncode == 40
    assert run_in_shell("sys.stdin.read(); return 0", "<&-").returncode == 70


def test_a_line_is_not_waited_for_where_no_reader_reads() -> None:
    """Standard error may be a pipe that is full."""
    body = """
    import fcntl
    reading, writing = os.pipe()
    os.write(writing, bytes(fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)))
    os.dup2(writing, 2)
    print('a line', file=sys.stderr)
    return 40"""
    assert run_in_shell(body).returncode == 40


def test_text_that_no_encoding_has_is_written_with_backslashes() -> None:
    """Names of files may be any bytes."""
    ended = run_in_shell("print(os.fsdecode(b'\\xff')); return 0")
    assert (ended.returncode, ended.stdout) == (0, "\\udcff\n")
