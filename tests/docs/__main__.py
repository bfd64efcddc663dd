"""`make docs`: write into the documents what they take from the code, and name the pages that changed.

Touches README.md, docs/ and the terminal. With --matrix also what takes minutes.
"""

import argparse
import sys

from tests.docs.blocks import ROOT, fill, pages


def main() -> None:
    """Bring every page up to date."""
    parser = argparse.ArgumentParser(prog="make docs", description=__doc__)
    parser.add_argument("--matrix", action="store_true", help="compute the policies x worlds table as well (minutes)")
    asked = parser.parse_args()
    for page in pages():
        text = (ROOT / page).read_text()
        filled = fill(text, with_slow=asked.matrix)
        if filled != text:
            (ROOT / page).write_text(filled)
            sys.stdout.write(f"changed: {page}\n")


if __name__ == "__main__":
    main()
