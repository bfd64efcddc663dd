"""How a command ends, whatever its standard streams are and whatever signal comes: a status, a reason, no traceback.

Nothing waits for a time: a signal is sent once a line, a handler or a file says that the program has come so far.
"""

import fcntl
import json
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.loadgen.command_line import Result, invoke

from swaptier_wire.process.ending_signals import ENDING, SIGNALS, EndingSignals

PATIENCE_SECONDS = 60
"""Only a failing test waits so long."""

RACE = "race --hosts 1 --processes 1 --threads 2 --pages 32 --resident 8 --policy shared"
SHORT = {
    "race": f"{RACE} --ops 100",
    "explore": "explore --world double-fault --policy shared",
    "specification": "specification --policy shared",
    "budget": "budget --policy shared --pages 512 --accesses 200",
}
LARGE_WORLD = "explore --world slot-reuse --threads 4 --processes 3 --slots 4 --swap-outs 4"
LONG = {
    "explore": f"{LARGE_WORLD} --policy shared",
    "explore in processes": f"{LARGE_WORLD} --policy shared,claim",
    "specification": "specification",
    "budget": "budget --policy shared,claim --accesses 100000000",
}

STATES = ("closed", "full", "without a reader")


def start(
    arguments: str, file: Path | None, streams: dict[int, str], *, before: tuple[str, ...] = ()
) -> "subprocess.Popen[str]":
    """Start the program with some of its *streams* in one of STATES; the others are pipes to the test."""
    redirections = "".join(
        f" {number}{'<' if number == 0 else '>'}&-" for number, state in streams.items() if state == "closed"
    )
    command = [
        "sh",
        "-c",
        f'exec "$@"{redirections}',
        "sh",
        *before,
        sys.executable,
        "-m",
        "swaptier_loadgen",
        *arguments.split(),
    ]
    with ExitStack() as opened:
        given: dict[int, int] = {}
        for number, state in streams.items():
            if state == "full":
                given[number] = os.open("/dev/full", os.O_RDWR)
            elif state == "without a reader":
                reading, writing = os.pipe()
                given[number] = reading if number == 0 else writing
                os.close(writing if number == 0 else reading)
            if number in given:
                opened.callback(os.close, given[number])
        return subprocess.Popen(
            [*command, *(() if file is None else ("--json", str(file)))],
            stdin=given.get(0, subprocess.DEVNULL),
            stdout=given.get(1, subprocess.PIPE),
            stderr=given.get(2, subprocess.PIPE),
            text=True,
        )


def end_of(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Return status, standard output and standard error of a program that ends by itself."""
    with process:
        try:
            stdout, stderr = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            process.kill()
    assert "Traceback" not in (stdout or "") + (stderr or "")
    return process.returncode, stdout or "", stderr or ""


@pytest.mark.parametrize("state", STATES)
def test_standard_input_and_error_may_be_of_no_use(state: str, tmp_path: Path) -> None:
    """Both change nothing."""
    file = tmp_path / "result.json"
    status, stdout, _ = end_of(start(SHORT["budget"], file, {0: state, 2: state}))
    assert (status, "shared refaulted" in stdout) == (0, True)
    assert json.loads(file.read_text())["runs"]


@pytest.mark.parametrize("state", STATES)
def test_a_table_that_cannot_be_printed_is_status_5_and_the_result_is_written(state: str, tmp_path: Path) -> None:
    """With the reason."""
    file = tmp_path / "result.json"
    status, _, stderr = end_of(start(SHORT["budget"], file, {1: state}))
    assert (status, "standard output could not be written" in stderr) == (5, True)
    assert json.loads(file.read_text())["runs"]


@pytest.mark.parametrize("name", SHORT)
def test_no_command_needs_a_standard_stream(name: str, tmp_path: Path) -> None:
    """All three are closed: host processes, search processes and servers of ours start nonetheless."""
    file = tmp_path / "result.json"
    status, _, _ = end_of(start(SHORT[name], file, dict.fromkeys((0, 1, 2), "closed")))
    assert status == 5
    assert json.loads(file.read_text())


@pytest.mark.parametrize("arguments", ["--help", "race --help", "--version", "completion bash"])
def test_what_is_only_printed_is_status_5_where_it_cannot_be(arguments: str) -> None:
    """Never 1, and no traceback."""
    status, _, stderr = end_of(start(arguments, None, {1: "full"}))
    assert (status, stderr.count("\n")) == (5, 1)


@pytest.mark.parametrize("streams", [{2: "closed"}, {2: "full"}, {1: "closed", 2: "without a reader"}])
def test_a_refusal_needs_no_reader(streams: dict[int, str]) -> None:
    """It is status 2 where its line goes nowhere, too."""
    assert end_of(start("race --hosts 0", None, streams))[0] == 2


@contextmanager
def handling_signals() -> Iterator[EndingSignals]:
    """Handle signals in this process as the program does; afterwards as before."""
    before = {number: signal.getsignal(number) for number in (*ENDING, signal.SIGALRM)}
    SIGNALS.forget()
    SIGNALS.handle("test")
    try:
        yield SIGNALS
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        SIGNALS.forget()


def interrupted(arguments: str, file: Path, number: signal.Signals) -> Result:
    """Run a command in this process, which sends itself a signal as soon as work has begun."""
    with handling_signals() as signals:

        def send() -> None:
            while not signals.has_begun:
                pass
            os.kill(os.getpid(), number)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            return invoke(*arguments.split(), "--json", str(file))
        finally:
            signals.has_begun = True
            sender.join()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("name", LONG)
def test_a_signal_ends_every_command_with_what_it_has(
    name: str, number: signal.Signals, status: int, tmp_path: Path
) -> None:
    """The result is written and printed; what is missing is said to be."""
    file = tmp_path / "result.json"
    result = interrupted(LONG[name], file, number)
    assert result.exit_code == status, result.output
    document = json.loads(file.read_text())
    if "explore" in name:
        assert "interrupted: " in result.stderr
        assert all(cell["bound"] == "interrupted" for cell in document["results"])
    elif document["not_measured"]:
        assert "not measured, because it was ended before: " in result.stdout


def wait_for(process: "subprocess.Popen[str]", event: str) -> None:
    """Read standard error up to the line that has *event*."""
    assert process.stderr is not None
    assert any(event in line for line in process.stderr), f"it ended without {event!r}"


@contextmanager
def racing(file: Path, number: signal.Signals, *, is_first: bool) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Run a race of ten minutes, perhaps as process 1, until a policy runs; give it and the pid to be sent *number*."""
    before = ("unshare", "--fork", "--pid") if is_first else ()
    process = start(f"{RACE} --duration 600", file, {}, before=before)
    try:
        wait_for(process, '"policy begins"')
        pid = process.pid
        if is_first:
            pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
        os.kill(pid, number)
        yield process, pid
    finally:
        process.kill()


def may_unshare() -> bool:
    """Tell whether a process may be process 1 of a namespace here."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--fork", "--pid", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(("number", "status", "is_first"), [(signal.SIGHUP, 129, False), (signal.SIGTERM, 143, True)])
def test_a_race_ends_in_order_also_as_process_1(
    number: signal.Signals,
    status: int,
    is_first: bool,
    tmp_path: Path,
) -> None:
    """Where no default action exists."""
    if is_first and not may_unshare():
        pytest.skip("unshare --pid is not allowed here: run as root")
    file = tmp_path / "result.json"
    with racing(file, number, is_first=is_first) as (process, _):
        ended, _, stderr = end_of(process)
    assert ended == status, stderr
    (run,) = json.loads(file.read_text())["runs"]
    assert run["verdict"] == "stopped early"


def test_a_second_signal_waits_for_no_host_and_the_result_is_written(tmp_path: Path) -> None:
    """The status is the first one's."""
    file = tmp_path / "result.json"
    with racing(file, signal.SIGHUP, is_first=False) as (process, pid):
        wait_for(process, '"SIGHUP"')
        os.kill(pid, signal.SIGTERM)
        assert end_of(process)[0] == 129
    assert "runs" in json.loads(file.read_text())


def handles_signals(pid: int) -> bool:
    """Tell whether a process has a handler for SIGTERM."""
    caught = Path(f"/proc/{pid}/status").read_text().partition("SigCgt:")[2].split()[0]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def test_a_signal_before_anything_was_begun_says_why_there_is_no_result(tmp_path: Path) -> None:
    """While the program still loads."""
    file = tmp_path / "result.json"
    process = start(f"{RACE} --duration 600", file, {})
    while not handles_signals(process.pid):
        pass
    process.send_signal(signal.SIGTERM)
    status, _, stderr = end_of(process)
    assert status == 143
    assert file.exists() or "ended by SIGTERM before anything was done" in stderr


@pytest.mark.parametrize("is_twice", [False, True])
def test_a_signal_while_the_result_is_written_cuts_nothing_off(is_twice: bool, tmp_path: Path) -> None:
    """The result goes to a FIFO that takes a page, which holds the program there; a second signal ends it at once."""
    file = tmp_path / "fifo"
    os.mkfifo(file)
    reading = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, 4096)
    process = start(LONG["specification"], file, {})
    with open(reading) as result:  # noqa: PTH123 - a descriptor
        assert select.select([result], [], [], PATIENCE_SECONDS)[0]
        os.set_blocking(reading, True)
        process.send_signal(signal.SIGHUP)
        if is_twice:
            process.send_signal(signal.SIGTERM)
            assert end_of(process)[::2] == (129, "swaptier-loadgen: ended by SIGHUP at once\n")
        else:
            assert len(json.load(result)["cells"]) > len(SHORT)
            assert end_of(process)[0] == 129


def test_a_result_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    """With its mode, behind a link, and without a trace beside it; a device and a FIFO are written into."""
    file, link = tmp_path / "result.json", tmp_path / "link"
    file.write_text("before")
    file.chmod(0o640)
    link.symlink_to(file)
    arguments = SHORT["budget"].split()
    assert invoke(*arguments, "--json", str(link)).exit_code == 0
    assert json.loads(file.read_text())["runs"] and link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert sorted(tmp_path.iterdir()) == [link, file]
    assert invoke(*arguments, "--json", "/dev/null").exit_code == 0
    full = invoke(*arguments, "--json", "/dev/full")
    assert (full.exit_code, "No space left" in full.stderr, "refaulted" in full.stdout) == (5, True, True)


def test_a_disk_that_is_full_leaves_the_result_of_before(tmp_path: Path) -> None:
    """The limit of a file's size stands for the disk's."""
    file = tmp_path / "result.json"
    file.write_text("before")
    status, stdout, stderr = end_of(start(SHORT["budget"], file, {}, before=("prlimit", "--fsize=100")))
    assert (status, file.read_text()) == (5, "before")
    assert "could not be written: File too large" in stderr and "refaulted" in stdout
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1"])
def test_the_result_may_go_to_standard_output(name: str) -> None:
    """Then nothing else does, and the tables go to standard error."""
    status, stdout, stderr = end_of(start(SHORT["budget"], Path(name), {}))
    assert status == 0
    assert json.loads(stdout)["runs"]
    assert "refaulted" in stderr


@pytest.mark.parametrize("descriptors", [24, 40])
def test_descriptors_that_do_not_suffice_are_status_6(descriptors: int, tmp_path: Path) -> None:
    """For our own server or for the hosts; with the limit to change, and the result that there is."""
    file = tmp_path / "result.json"
    arguments = SHORT["race"].replace("--hosts 1", "--hosts 16")
    status, _, stderr = end_of(start(arguments, file, {}, before=("prlimit", f"--nofile={descriptors}")))
    assert status == 6, stderr
    assert "ulimit -n" in stderr
    assert json.loads(file.read_text())["not_raced"] == ["shared"]


def test_a_search_that_was_cut_off_is_status_7(tmp_path: Path) -> None:
    """It proves nothing, whatever its bound was."""
    file = tmp_path / "result.json"
    arguments = (*SHORT["explore"].split(), "--preemptions", "0", "--json", str(file))
    assert invoke(*arguments).exit_code == 7
    (cell,) = json.loads(file.read_text())["results"]
    assert (cell["bound"], cell["exhaustive"]) == ("preemptions", False)


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    """In one line, with status 2: what was installed is the server alone."""
    (tmp_path / "hdrh").mkdir()
    (tmp_path / "hdrh" / "__init__.py").write_text("raise ModuleNotFoundError(name='hdrh')")
    ended = subprocess.run(
        [sys.executable, "-m", "swaptier_loadgen", "--version"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "the package hdrh is missing" in ended.stderr and "pip install 'swaptier[loadgen]'" in ended.stderr


def test_a_target_that_nobody_serves_is_one_sentence_and_no_table() -> None:
    """Status 3; the policies that were not tried are not listed either."""
    result = invoke(*SHORT["race"].split(), "--target", "127.0.0.1:1")
    assert result.exit_code == 3
    assert result.stdout.count("\n") == 1
    assert "The tier cannot be reached" in result.stdout and "127.0.0.1:1" in result.stdout
