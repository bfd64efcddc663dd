"""The tiers that --target names."""

import pytest

from swaptier_loadgen.host.messages import Target, parse_tiers


@pytest.mark.parametrize(
    ("target", "tiers"),
    [
        ("127.0.0.1:1", (Target("127.0.0.1:1", 0),)),
        ("a:1@5,b:2@-3,c:3", (Target("a:1", 5), Target("b:2", -3), Target("c:3", 0))),
        ("unix:/run/x@y.sock", (Target("unix:/run/x@y.sock", 0),)),
        ("unix:/run/x@y.sock@7", (Target("unix:/run/x@y.sock", 7),)),
    ],
)
def test_a_target_names_tiers_and_their_priorities(target: str, tiers: tuple[Target, ...]) -> None:
    """The last @ and a number are a priority; 0 without."""
    assert parse_tiers(target) == tiers
