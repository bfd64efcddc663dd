"""Epochs rise from start to start."""

import time

import pytest

from swaptier_wire.epochs import epoch_above, new_epoch
from swaptier_wire.errors import ClientReplaced
from swaptier_wire.status import rich_status
from swaptier_wire.types import EPOCH_MAX


@pytest.mark.parametrize("now_ns", [-(10**18), 0, 10**18, 1_893_456_000 * 10**9])
def test_two_starts_under_a_clock_that_stands_still_differ(monkeypatch: pytest.MonkeyPatch, now_ns: int) -> None:
    """As under `faketime -f`, or before the machine has asked what time it is, be that before 1970."""
    monkeypatch.setattr(time, "time_ns", lambda: now_ns)
    epochs = [new_epoch() for _ in range(4)]
    assert len(set(epochs)) > 1
    assert all(max(now_ns, 0) < epoch < EPOCH_MAX for epoch in epochs)


def test_a_later_start_has_a_higher_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """From two milliseconds on."""
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    before = new_epoch()
    monkeypatch.setattr(time, "time_ns", lambda: 10**18 + 2 * 10**6)
    assert new_epoch() > before


@pytest.mark.parametrize("known", [0, 7, 10**18, EPOCH_MAX - (1 << 21)])
def test_two_starts_above_the_same_epoch_differ(known: int) -> None:
    """As of two load generators of one name, both refused after their clocks were set back."""
    epochs = [epoch_above(known) for _ in range(4)]
    assert len(set(epochs)) > 1
    assert all(known < epoch < EPOCH_MAX for epoch in epochs)


def test_no_epoch_is_above_the_greatest() -> None:
    """Which the wire could not carry."""
    assert epoch_above(EPOCH_MAX - 1) == EPOCH_MAX


def test_a_refused_epoch_says_which_one_is_known() -> None:
    """An addition to ErrorInfo's metadata: whoever does not know it loses nothing."""
    [detail] = rich_status(ClientReplaced("started anew", newest_epoch=EPOCH_MAX)).details
    assert str(EPOCH_MAX).encode() in detail.value
