"""What the declaration of a report's field says besides its type: how two are added and how /metrics shows it.

Pure. A field is declared once, as in `pages: Annotated[int, Metric("Pages read.")] = 0`. From that alone it is added
up over hosts, written to the JSON document, and served under /metrics where it has a Metric.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache, partial
from typing import NamedTuple, TypeVar, get_type_hints

R = TypeVar("R")


class Metric(NamedTuple):
    """How /metrics shows a field: one value, or one for each key of a dictionary."""

    help: str
    label: str = ""
    """What the keys of a dictionary are."""
    keys: Iterable[str] = ()
    """Keys that are shown from the start, at 0."""
    name: str = ""
    """Without prefix and suffix; empty: the field's."""
    is_gauge: bool = False


Gauge = partial(Metric, is_gauge=True)
"""A value as of now, which may fall."""


@dataclass(frozen=True, slots=True)
class AddedBy:
    """How two values are added, where neither is None; without one, numbers, lists and dictionaries of numbers are."""

    add: Callable[..., object]


UNPUBLISHED = "left out of the JSON document"


@cache
def declarations(record: type) -> dict[str, tuple[object, ...]]:
    """Return what the declaration of each field of *record*, a dataclass, says besides its type."""
    hints = get_type_hints(record, include_extras=True)
    return {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}


def add_reports(one: R, other: R) -> R:
    """Return a report whose fields are those of *one* and *other*, added as they are declared."""
    assert is_dataclass(one) and not isinstance(one, type)
    declared = declarations(type(one))
    return replace(
        one, **{f.name: _added(getattr(one, f.name), getattr(other, f.name), declared[f.name]) for f in fields(one)}
    )


def _added(one: object, other: object, declared: Iterable[object]) -> object:
    if one is None or other is None:
        return other if one is None else one
    for rule in declared:
        if isinstance(rule, AddedBy):
            return rule.add(one, other)
    match one, other:
        case dict(), dict():
            return {key: one.get(key, 0) + other.get(key, 0) for key in one | other}
        case list(), list():
            return one + other
        case ((int() | float()), (int() | float())):
            return one + other
        case _:
            raise TypeError(f"say with AddedBy how {one!r} and {other!r} are added")
