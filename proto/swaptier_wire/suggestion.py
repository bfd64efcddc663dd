"""The name that was probably meant by one that is not known: flags, variables, policies, kinds of fault.

Pure.
"""

import difflib
from collections.abc import Iterable

LIKENESS_MIN = 0.5
"""difflib's ratio from which on two names are alike enough."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean X?)", X being the known name most like *name*, in any case; "" where none is like it."""
    by_folded = {one.casefold(): one for one in known}
    close = difflib.get_close_matches(name.casefold(), list(by_folded), n=1, cutoff=LIKENESS_MIN)
    return f" (did you mean {by_folded[close[0]]}?)" if close else ""
