"""`make fairness`: how much slower a well-behaved tenant is served while another one attacks, against quiet moments.

Touches the terminal. Every ratio is of two windows beside each other in the same run, quiet and under attack, in turn;
of each attack the median of its ratios is told, with the least and the most. Exit status: 0 every goal is met, 1 one is
missed by all repeats, 2 wrong usage.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from tests.fairness.attacks import ATTACKS, Attack, attacker
from tests.fairness.machine import CLIENT_CORES, be_the_neighbour, serving
from tests.fairness.neighbour import FEW, MORE, Neighbour, p99

REPEATS: Final = 3
SECONDS: Final = 2.5
"""Of a window: some 300 requests of each size."""
SETTLE_SECONDS: Final = 0.5
"""Asked for before a window and not counted."""


class Repeat(NamedTuple):
    """One quiet window, and the attack after it."""

    quiet: tuple[float, float]
    """p99 in seconds of requests of few pages, and of more."""
    attacked: tuple[float, float]
    done_per_second: float

    @property
    def ratios(self) -> tuple[float, float]:
        """How many times slower the neighbour was served, of few pages, and of more."""
        return self.attacked[0] / self.quiet[0], self.attacked[1] / self.quiet[1]

    @property
    def ratio(self) -> float:
        """The worse of the two."""
        return max(self.ratios)


def main() -> int:
    """Measure what is asked for; return the exit status."""
    names = [attack.name for attack in ATTACKS]
    parser = argparse.ArgumentParser(prog="make fairness", description=__doc__)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"of {', '.join(names)}; without any, all")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a window")
    asked = parser.parse_args()
    unknown = [name for name in asked.attacks if name not in names]
    if unknown:
        parser.error(f"no attack {unknown[0]!r}; there are {', '.join(names)}")
    if not CLIENT_CORES:
        parser.error("one core for server and clients measures the clients; give at least two")
    be_the_neighbour()
    _say(f"{'attack':14} {'quiet p99':>17} {'attacked p99':>17} {'times':>6} {'least':>6} {'most':>6} {'goal':>5}")
    missed = []
    for attack in ATTACKS:
        if asked.attacks and attack.name not in asked.attacks:
            continue
        repeats = asyncio.run(_measure(attack, asked.repeats, asked.seconds))
        _say(_row(attack, repeats))
        if min(repeat.ratio for repeat in repeats) >= attack.goal:
            missed.append(attack.name)
    _say(f"p99: milliseconds of requests of {FEW} and of {MORE} pages; times: the worse of their ratios, as a median")
    _say(f"fairness: missed by {', '.join(missed)}" if missed else "fairness: every goal is met")
    return 1 if missed else 0


async def _measure(attack: Attack, repeats: int, seconds: float) -> list[Repeat]:
    """Attack a server of its own, in turn with quiet moments."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [flag.replace("SWAP_FILE", f"{folder}/swap") for flag in attack.flags]
        with serving(Path(folder), flags) as served:
            neighbour = Neighbour(served.address)
            await neighbour.open()
            seen = []
            with attacker(attack.name, served.address) as switch:
                for _ in range(repeats):
                    quiet = await _window(neighbour, seconds)
                    switch.is_on.set()
                    before = switch.done.value
                    attacked = await _window(neighbour, seconds)
                    done = switch.done.value - before
                    switch.is_on.clear()
                    served.check()
                    seen.append(Repeat(quiet, attacked, done / (seconds + SETTLE_SECONDS)))
            await neighbour.close()
            return seen


async def _window(neighbour: Neighbour, seconds: float) -> tuple[float, float]:
    """Return the p99 of one window, of requests of few pages, and of more."""
    await neighbour.measure(SETTLE_SECONDS)
    seen = await neighbour.measure(seconds)
    return p99(seen.few), p99(seen.more)


def _row(attack: Attack, repeats: Sequence[Repeat]) -> str:
    def pair(times: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{median(time[size] for time in times) * 1e3:8.2f}" for size in range(2))

    ratios = sorted(repeat.ratio for repeat in repeats)
    met = "met" if median(ratios) < attack.goal else "MISSED"
    done = median(repeat.done_per_second for repeat in repeats)
    return (
        f"{attack.name:14} {pair([one.quiet for one in repeats])} {pair([one.attacked for one in repeats])} "
        f"{median(ratios):6.1f} {ratios[0]:6.1f} {ratios[-1]:6.1f} {f'<{attack.goal:g}':>5} {met:6} "
        f"{done:8.0f}/s  {attack.what}"
    )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
