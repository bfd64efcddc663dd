"""Writes any value down as a flat list of atoms, objects by number in the order in which they are met.

Pure. A type that neither this nor a subclass knows is an error, so that nothing is left out of a key by accident.
"""

from __future__ import annotations

import dis
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from functools import cache
from types import CodeType, FunctionType, GeneratorType, MethodType
from typing import ClassVar, NamedTuple

from swaptier_loadgen.explore.pages import page_token
from swaptier_wire.types import PAGE_BYTES

Atom = int | str | None

ITERATORS = frozenset(
    map(type, (iter([]), iter(()), iter({}), iter({}.values()), iter({}.items()), iter(range(0)), zip(), enumerate(())))
)
"""How far each loop of a suspended frame has come: they lie on its stack, where `gc.get_referents()` finds them."""
_FOR_ITER = dis.opmap["FOR_ITER"]


class FrameShape(NamedTuple):
    """What is known of a function, whatever state its frame is in."""

    name: str
    variables: int
    has_loops: bool


@cache
def frame_shape(code: CodeType) -> FrameShape:
    """Return the shape of *code*'s frames."""
    variables = len({*code.co_varnames, *code.co_cellvars, *code.co_freevars})
    return FrameShape(code.co_qualname, variables, any(at.opcode == _FOR_ITER for at in dis.get_instructions(code)))


class ValueWriter:
    """One serialisation: what was written so far, and the number of each object met."""

    BY_TYPE: ClassVar[dict[type, Callable[..., None]]] = {}
    """What a subclass writes in a way of its own; each takes the writer and a value of its own type."""

    def __init__(self) -> None:
        self._out: list[Atom] = []
        self._numbers: dict[int, int] = {}

    def _put(self, value: object) -> None:
        kind = type(value)
        if value is None or kind is int or kind is str or kind is bool or kind is float:
            self._out.append(value)  # type: ignore[arg-type]  # the line above says that it is an atom
            return
        number = self._numbers.get(id(value))
        if number is not None:
            self._out += (number, "@")
            return
        write = self.BY_TYPE.get(kind) or self.PLAIN.get(kind)
        if write is not None:
            write(self, value)
        else:
            self._other(value, kind)

    def _number(self, value: object) -> None:
        self._numbers[id(value)] = len(self._numbers)

    def _other(self, value: object, kind: type) -> None:
        if isinstance(value, Enum):
            self._out += (kind.__name__, value.value if isinstance(value, int) else value.name)
        elif isinstance(value, BaseException):
            self._out += (kind.__name__, str(value))
        elif isinstance(value, tuple):
            self._out += (kind.__name__, len(value))
            for part in value:
                self._put(part)
        elif isinstance(value, range):
            self._out += ("range", value.start, value.stop, value.step)
        elif isinstance(value, type):
            self._out.append(value.__name__)
        elif isinstance(value, FunctionType):
            self._out.append(value.__qualname__)
        elif isinstance(value, MethodType):
            self._out.append(value.__func__.__qualname__)
            self._put(value.__self__)
        elif isinstance(value, GeneratorType):
            # A path that another drives step by step: Cpu.frames() comes to it.
            self._out.append(value.__qualname__)
        elif callable(value) and getattr(value, "__module__", "") == "builtins":
            self._out.append(getattr(value, "__name__", ""))
        elif kind in ITERATORS:
            self._put(value.__reduce__())
        else:
            raise TypeError(f"a {kind.__name__} is in reach of a task, and state_key does not know what of it matters")

    def _bytes(self, value: bytes) -> None:
        if len(value) == PAGE_BYTES:
            self._out += ("page", page_token(value))
        else:
            self._out.append(value.hex())

    def _list(self, value: list[object]) -> None:
        self._out += ("[", len(value))
        for part in value:
            self._put(part)

    def _dict(self, value: dict[object, object]) -> None:
        self._out += ("{", len(value))
        for name, part in value.items():
            self._put(name)
            self._put(part)

    PLAIN: ClassVar[dict[type, Callable[..., None]]] = {bytes: _bytes, list: _list, dict: _dict, OrderedDict: _dict}
