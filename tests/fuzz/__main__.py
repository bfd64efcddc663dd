"""`make fuzz`: throw a hundred thousand inputs, or as many as are asked for, and say what came of it in one line.

Touches the terminal. Exit status: 0 nothing was wrong, 1 something was; 2 wrong usage.
"""

import argparse
import asyncio
import secrets
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.campaign import PROGRAM, SAMPLES, Outcome, run

INPUTS = 100_000
SLOPE_BYTES_MAX = 200.0
"""Per input. gRPC itself keeps some 100 bytes of every call whose connection is cut under it (grpcio 1.85.1, also with
a server of ten lines), which is half a call per input here. One small object of ours for every call would be more."""


def main() -> int:
    """Run a campaign; return the exit status."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=INPUTS)
    parser.add_argument("--seed", type=int, default=None, help="of the inputs; without it a new one, which is told")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--sqlite", action="store_true", help="let the server keep pages in a swap file")
    parser.add_argument("--write-through", action="store_true", help="and write every page through to it")
    asked = parser.parse_args()
    seed = secrets.randbelow(2**32) if asked.seed is None else asked.seed
    more = ' FUZZ="--write-through"' if asked.write_through else ' FUZZ="--sqlite"' if asked.sqlite else ""
    _say(f"seed {seed}; to repeat: make fuzz SEED={seed} INPUTS={asked.inputs}{more}")
    with tempfile.TemporaryDirectory() as folder:
        numbers = range(asked.first, asked.first + asked.inputs)
        program = list(PROGRAM)
        if asked.sqlite or asked.write_through:
            program += ["--device", f"sqlite:{folder}/swap"]
        if asked.write_through:
            program += ["--durability", "write-through"]
        outcome = asyncio.run(run(Path(folder), seed, numbers, _dots(), program))
    _say()
    for kind, count in outcome.thrown.items():
        _say(f"{count:>9}  {kind}")
    answers = ", ".join(f"{count} {status}" for status, count in outcome.statuses.most_common())
    _say(f"answers: {answers}")
    slots = ", ".join(f"{count} {what}" for what, count in outcome.outcomes.most_common())
    _say(f"slots: {slots}")
    wrongs = outcome.wrongs
    if asked.inputs >= INPUTS and outcome.slope > SLOPE_BYTES_MAX:
        wrongs.append(f"the server's memory grew by {outcome.slope:.0f} bytes with every input")
    for wrong in wrongs:
        _say(f"wrong: {wrong}")
    _say(_summary(outcome, seed))
    return 1 if wrongs else 0


def _say(text: str = "") -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _dots() -> Iterator[None]:
    """Show that something happens."""
    for _ in range(10 * SAMPLES):
        sys.stderr.write(".")
        sys.stderr.flush()
        yield


def _summary(outcome: Outcome, seed: int) -> str:
    first, last = (outcome.memory[0][1], outcome.memory[-1][1]) if outcome.memory else (0, 0)
    verdict = f"{len(outcome.wrongs)} WRONG" if outcome.wrongs else "nothing wrong"
    return (
        f"fuzz: {outcome.thrown.total()} inputs in {outcome.seconds:.0f} s, seed {seed}: {verdict}; {outcome.pages} "
        f"pages came back to the attacker, all its own; the victim loaded {outcome.victim_loads} times, slowest "
        f"{outcome.victim_slowest_seconds * 1e3:.0f} ms; memory {first >> 20} to {last >> 20} MiB, "
        f"{outcome.slope:+.1f} bytes per input once settled"
    )


if __name__ == "__main__":
    sys.exit(main())
