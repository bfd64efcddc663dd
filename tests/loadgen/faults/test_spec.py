"""The line that names the faults of a race."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swaptier_loadgen.faults.spec import NO_FAULTS, Delay, FaultProblem, Faults, Pause

ALL = (
    "drop-reply=0.01,delay=2ms..20ms,duplicate=0.01,reorder=0.01,disconnect=1/s,"
    "kill-server=every:5s,pause-server=every:7s:1s"
)


def test_every_fault_can_be_named_in_one_line() -> None:
    """Values in their units, seconds inside."""
    faults = Faults.parse(ALL)
    assert faults == Faults(
        drop_reply=0.01,
        delay=Delay(1.0, 0.002, 0.02),
        duplicate=0.01,
        reorder=0.01,
        disconnects_per_second=1.0,
        kill_server_seconds=5.0,
        pause_server=Pause(7.0, 1.0),
    )
    assert str(faults) == ALL
    assert faults.on_the_way and faults.on_the_server


def test_nothing_goes_wrong_unless_said() -> None:
    """The empty line is no line, and what is not named is off."""
    assert not NO_FAULTS
    assert str(NO_FAULTS) == ""
    kills = Faults.parse("kill-server=every:2m")
    assert kills and kills.on_the_server and not kills.on_the_way
    drops = Faults.parse("drop-reply=0.5")
    assert drops and drops.on_the_way and not drops.on_the_server


seconds = st.integers(1, 9_000).map(lambda milliseconds: milliseconds / 1000)
shares = st.integers(1, 500).map(lambda thousandths: thousandths / 1000)


@given(
    st.builds(
        Faults,
        drop_reply=st.just(0.0) | shares,
        delay=st.none() | st.builds(lambda share, a, b: Delay(share, min(a, b), max(a, b)), shares, seconds, seconds),
        duplicate=st.just(0.0) | shares,
        reorder=st.just(0.0) | shares,
        disconnects_per_second=st.just(0.0) | shares,
        kill_server_seconds=st.just(0.0) | st.integers(1, 3600).map(float),
        pause_server=st.none() | st.builds(Pause, st.integers(10, 3600).map(float), seconds),
    )
)
def test_what_is_written_is_read_back(faults: Faults) -> None:
    """So the command that repeats a race names the same faults."""
    if faults:
        assert Faults.parse(str(faults)) == faults


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "there is no fault ''"),
        ("drop-replies=0.1", "did you mean drop-reply?"),
        ("drop-reply", "'' is not a number; for example drop-reply=0.01"),
        ("drop-reply=1", "at most 0.5"),
        ("drop-reply=0", "above 0"),
        ("drop-reply=-0.1", "'-0.1' is not a number"),
        ("drop-reply=1%", "'1%' is not a number"),
        ("drop-reply=nan", "'nan' is not a number"),
        ("drop-reply=0.1,drop-reply=0.2", "drop-reply is given twice"),
        ("delay=20", "'20' is not a duration: a number and one of us, ms, s, m; for example delay=2ms..20ms"),
        ("delay=20ms..2ms", "from less to more"),
        ("delay=1s..11s", "up to 10s"),
        ("delay=2:1ms..2ms", "at most 0.5"),
        ("duplicate=x", "duplicate=x is not right"),
        ("disconnect=1", "per s or per m"),
        ("disconnect=1000/s", "at most 100/s"),
        ("kill-server=5s", "it says how often; for example kill-server=every:5s"),
        ("kill-server=every:100ms", "every 1s to 3600s"),
        ("pause-server=every:7s", "how often and for how long"),
        ("pause-server=every:2s:2s", "over before the next one begins"),
    ],
)
def test_a_line_that_makes_no_sense_says_which_part_and_what_would(text: str, complaint: str) -> None:
    """One line for the terminal."""
    with pytest.raises(FaultProblem) as problem:
        Faults.parse(text)
    assert complaint in str(problem.value)
    assert "\n" not in str(problem.value)
