"""The closing sentence of a race."""

import pytest
from tests.loadgen.summaries import run

from swaptier_loadgen.host.report import Ended
from swaptier_loadgen.race.closing_sentence import closing_sentence
from swaptier_loadgen.race.results import RunSummary


def test_the_closing_sentence_names_both_sides() -> None:
    """Who handed out wrong bytes, how many pages, and who never did."""
    text = closing_sentence(
        [run("exclusive", corruptions_by_kind={"device_zero": 2}), run("shared", pages_checked=7), run("no-bypass")]
    )
    assert text == (
        "2 pages came back to programs with wrong bytes and no error under exclusive; not one did under shared and "
        "no-bypass: every byte of 7 pages read was compared with what was written."
    )


def test_a_policy_that_can_corrupt_and_did_not_is_named_too() -> None:
    """Else the sentence names eleven policies of twelve."""
    text = closing_sentence(
        [run("exclusive", corruptions_by_kind={"device_zero": 2}), run("shared"), run("free-on-read")]
    )
    assert text.endswith(" free-on-read can corrupt pages, says the specification, and did not in this race.")


@pytest.mark.parametrize(
    ("summaries", "words"),
    [
        ([run("shared", corruptions_by_kind={"device_old": 1})], "defect"),
        ([run("shared", Ended.UNREACHABLE, message="no server there")], "no server there"),
        ([run("exclusive", corruptions_by_kind={"device_old": 1})], "1 page came back"),
        ([run("shared")], "Not one page"),
        ([run("exclusive")], "no policy that promises so"),
        ([], "no policy that promises so"),
    ],
)
def test_there_is_always_a_closing_sentence(summaries: list[RunSummary], words: str) -> None:
    """Whatever came of the race."""
    assert words in closing_sentence(summaries)


def test_a_failure_is_told_with_the_command_that_repeats_it() -> None:
    """Whoever reports the defect need not ask how it came about."""
    command = "swaptier-loadgen race --policy shared --seed 7"
    assert command in closing_sentence([run("shared", corruptions_by_kind={"device_zero": 1})], command)


def test_what_a_corrupting_policy_told_is_in_the_closing_sentence_too() -> None:
    """Silent and told losses are both losses."""
    words = closing_sentence(
        [run("exclusive", corruptions_by_kind={"device_zero": 3}, detected_losses_by_reason={"miss_must_exist": 5})]
    )
    assert "3 pages came back" in words
    assert "5 pages were lost under exclusive" in words
