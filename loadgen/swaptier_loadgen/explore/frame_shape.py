"""What a suspended frame holds besides its variables: iterators of its loops, on its stack.

Pure. `gc.get_referents()` of a suspended generator gives what its frame refers to, its stack included; the iterators
among these say how far each loop has come, which no variable does.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import CodeType
from typing import NamedTuple

_NOTHING: tuple[Iterator[object], ...] = (
    iter([]),
    iter(()),
    iter({}),
    iter({}.values()),
    iter({}.items()),
    iter(range(0)),
    zip(),
    enumerate(()),
)
ITERATORS = frozenset(type(iterator) for iterator in _NOTHING)
_FOR_ITER = dis.opmap["FOR_ITER"]


class FrameShape(NamedTuple):
    """What is known of a function, whatever state its frame is in."""

    name: str
    variables: int
    has_loops: bool

    @classmethod
    def of(cls, code: CodeType) -> FrameShape:
        """Look at *code*."""
        variables = len({*code.co_varnames, *code.co_cellvars, *code.co_freevars})
        return cls(code.co_qualname, variables, any(at.opcode == _FOR_ITER for at in dis.get_instructions(code)))
