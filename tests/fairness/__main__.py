"""`make fairness`: how much slower a well-behaved tenant is served while another one attacks, against quiet moments.

Touches the terminal. Every ratio is of two windows beside each other in the same run, quiet and under attack, in turn;
of each attack the median of its ratios is told, with the least and the most. Exit status: 0 every goal is met, 1 one is
missed by all repeats, 2 wrong usage.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from tests.fairness.attacks import AREAS, ATTACKS, Attack, attacker
from tests.fairness.machine import CLIENT_CORES, be_the_neighbour, serving
from tests.fairness.neighbour import FEW, MORE, Latencies, Neighbour, percentile

REPEATS: Final = 3
SECONDS: Final = 2.0
"""Of a window: 125 requests of each size."""
SETTLE_SECONDS: Final = 0.5
"""Asked for before a window and not counted."""
HEAD: Final = (
    f"{'attack':14} {'quiet p99':>15} {'attacked p99':>15} {'times':>6} {'least':>6} {'most':>6} {'p50':>5} {'goal':>5}"
)


class Repeat(NamedTuple):
    """One quiet window, and the attack after it."""

    quiet: Latencies
    attacked: Latencies
    done_per_second: float

    @property
    def ratio(self) -> float:
        """How many times longer one request in a hundred took, of few pages or of more: the worse of the two."""
        return max(percentile(99, attacked) / percentile(99, quiet) for quiet, attacked in self._pairs())

    @property
    def median_ratio(self) -> float:
        """Likewise of one request in two."""
        return max(percentile(50, attacked) / percentile(50, quiet) for quiet, attacked in self._pairs())

    def _pairs(self) -> Iterator[tuple[list[float], list[float]]]:
        return zip(self.quiet, self.attacked, strict=True)


def main() -> int:
    """Measure what is asked for; return the exit status."""
    names = [attack.name for attack in ATTACKS]
    parser = argparse.ArgumentParser(prog="make fairness", description=__doc__)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"of {', '.join(names)}; without any, all")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a window")
    asked = parser.parse_args()
    if not 1 <= asked.repeats <= AREAS or asked.seconds < 1:
        parser.error(f"give 1 to {AREAS} repeats, of windows of 1 s or more")
    unknown = [name for name in asked.attacks if name not in names]
    if unknown:
        parser.error(f"no attack {unknown[0]!r}; there are {', '.join(names)}")
    if not CLIENT_CORES:
        parser.error("one core for server and clients measures the clients; give at least two")
    be_the_neighbour()
    _say(HEAD)
    verdicts: dict[str, list[str]] = {"met": [], "unclear": [], "missed": []}
    for attack in ATTACKS:
        if asked.attacks and attack.name not in asked.attacks:
            continue
        repeats = asyncio.run(_measure(attack, asked.repeats, asked.seconds))
        verdict = _verdict(attack, repeats)
        _say(_row(attack, repeats, verdict))
        verdicts[verdict].append(attack.name)
    _say(
        f"p99: milliseconds, of requests of {FEW} and of {MORE} pages; times: the worse of the two ratios, as a median"
    )
    _say("of repeats, with the least and the most; p50: that of medians, which a machine's own stalls do not change")
    _say("met: the median is below the goal; missed: no repeat is; unclear: a repeat is, and the median is not")
    found = [f"{verdict} by {', '.join(names)}" for verdict, names in verdicts.items() if verdict != "met" and names]
    _say(f"fairness: {'; '.join(found) or 'every goal is met'}")
    return 1 if verdicts["missed"] else 0


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


async def _window(neighbour: Neighbour, seconds: float) -> Latencies:
    """Return what the neighbour saw in one window."""
    await neighbour.measure(SETTLE_SECONDS)
    return await neighbour.measure(seconds)


def _verdict(attack: Attack, repeats: Sequence[Repeat]) -> str:
    """Return met, unclear or missed."""
    ratios = [repeat.ratio for repeat in repeats]
    if median(ratios) < attack.goal:
        return "met"
    return "missed" if min(ratios) >= attack.goal else "unclear"


def _row(attack: Attack, repeats: Sequence[Repeat], verdict: str) -> str:
    def p99(seen: Sequence[Latencies]) -> str:
        return " ".join(f"{median(percentile(99, one[size]) for one in seen) * 1e3:7.2f}" for size in range(2))

    ratios = sorted(repeat.ratio for repeat in repeats)
    done = median(repeat.done_per_second for repeat in repeats)
    return (
        f"{attack.name:14} {p99([one.quiet for one in repeats])} {p99([one.attacked for one in repeats])} "
        f"{median(ratios):6.1f} {ratios[0]:6.1f} {ratios[-1]:6.1f} {median(one.median_ratio for one in repeats):5.1f} "
        f"{f'<{attack.goal:g}':>5} {verdict:7} {done:8.0f}/s  {attack.what}"
    )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
