"""Run cases of the storm: `python -m tests.server.swapfile.storm --seed 1 --first 0 --cases 200`.

Touches the terminal. Exit status: 0 nothing was wrong, 1 something was.
"""

import argparse
import sys
import traceback
from collections import Counter

from tests.server.swapfile.storm.case import Case, Wrong, run_case


def main() -> int:
    """Run them; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.server.swapfile.storm", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of all cases")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--cases", type=int, default=200, help="how many")
    asked = parser.parse_args()
    counts: Counter[str] = Counter()
    wrong = 0
    for number in range(asked.first, asked.first + asked.cases):
        try:
            run_case(Case(asked.seed, number), counts)
        except Wrong as error:
            wrong += 1
            sys.stdout.write(f"{error}\n")
            if asked.cases == 1:
                traceback.print_exception(error.__cause__)
    sys.stdout.write(f"{asked.cases} cases, {wrong} wrong; {dict(counts.most_common())}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
