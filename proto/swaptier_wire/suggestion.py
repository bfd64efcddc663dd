"""The name that was probably meant by one that is not known: flags, variables, policies, kinds of fault.

Pure.
"""

import difflib
from collections.abc import Iterable

LIKENESS_MIN = 0.5
"""difflib's ratio from which on two names are alike enough."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean X?)", X being the known name most like *name*; "" where none is like it."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=LIKENESS_MIN)
    return f" (did you mean {close[0]}?)" if close else ""
