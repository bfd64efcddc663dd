"""What a race hands on to its servers."""

from pathlib import Path

import pytest

from swaptier_loadgen.race.server_flags import FlagsRefused, ServerFlags

FOLDER = Path("folder")


@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        (ServerFlags(), []),
        (ServerFlags(pool_limit="2MiB"), ["--pool-limit", "2MiB"]),
        (ServerFlags(device="memory"), ["--device", "memory"]),
        (ServerFlags(device="sqlite:swap"), ["--device", "sqlite:swap.1"]),
        (ServerFlags(durability="memory"), ["--durability", "memory"]),
        (
            ServerFlags(durability="write-through"),
            ["--durability", "write-through", "--device", f"sqlite:{FOLDER / 'swap'}.1"],
        ),
        (
            ServerFlags(durability="write-through", device="sqlite:mine"),
            ["--device", "sqlite:mine.1", "--durability", "write-through"],
        ),
    ],
)
def test_the_second_server_gets_the_flags_and_a_swap_file_of_its_own(flags: ServerFlags, arguments: list[str]) -> None:
    """Only what was given, and a file where write-through needs one and none was named."""
    assert flags.arguments(1, FOLDER) == arguments
    assert flags.arguments(0, FOLDER) == [argument.removesuffix(".1") for argument in arguments]
    assert bool(flags) == bool(arguments)


def test_the_server_says_what_it_would_not_take_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Its own words, without its name."""
    ServerFlags(pool_limit="2MiB", durability="write-through").check()
    with pytest.raises(FlagsRefused, match=r"^--pool-limit must be bytes"):
        ServerFlags(pool_limit="much").check()
    with pytest.raises(FlagsRefused, match=r"^--device: cannot make .*there is no folder"):
        ServerFlags(device=f"sqlite:{tmp_path}/no/such/folder").check()
    assert list(tmp_path.iterdir()) == []
