"""How many lines of the log one caller may cause: so many of a kind in a minute, and then their number.

Pure: the clock is an argument. Lines are counted by kind and by who caused them, so that a flood of one tenant's hides
neither its own lines of another kind nor any line of another tenant.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

LINES_MAX: Final = 30
"""Of one kind and caller in a span: a host that starts with all its areas is told whole, a loop is not."""
SPAN_SECONDS: Final = 60.0
CALLERS_MAX: Final = 1024
"""Kinds and callers that are counted apart at once; those beyond share one budget for each kind."""

_OTHERS: Final = ""
"""Stands for who is beyond CALLERS_MAX; no tenant is called so."""


def name_of(caller: str | None) -> str:
    """Return what the log calls *caller*: a tenant, None for one that is not known, or those beyond CALLERS_MAX."""
    return "anonymous" if caller is None else caller or "others"


class LeftOut(NamedTuple):
    """Lines that were not written in a span that is over."""

    kind: str
    caller: str | None
    lines: int


@dataclass(slots=True)
class _Span:
    began_ns: int
    written: int = 0
    left_out: int = 0


class LineBudget:
    """What may be written now."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        """Count by the monotonic clock *now_ns*."""
        self._now_ns: Final = now_ns
        self._spans: Final[dict[tuple[str, str | None], _Span]] = {}
        self.left_out = 0
        """Lines that were not written, ever."""

    def may_write(self, kind: str, caller: str | None) -> bool:
        """Tell whether *caller* may have a line of this *kind* written now; count it, written or not."""
        which = (kind, caller)
        if which not in self._spans and len(self._spans) >= CALLERS_MAX:
            which = (kind, _OTHERS)
        span = self._spans.setdefault(which, _Span(self._now_ns()))
        if span.written < LINES_MAX:
            span.written += 1
            return True
        span.left_out += 1
        self.left_out += 1
        return False

    def ended_spans(self, *, all_end: bool = False) -> Iterator[LeftOut]:
        """Forget the spans that are over, or all of them; yield those in which lines were left out."""
        latest_ns = self._now_ns() - (0 if all_end else round(SPAN_SECONDS * 1e9))
        for which, span in list(self._spans.items()):
            if span.began_ns <= latest_ns:
                del self._spans[which]
                if span.left_out:
                    yield LeftOut(*which, span.left_out)
