"""What the parser and the settings of both programs object to, as one line that names the flag or the variable.

Touches nothing.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from annotated_types import Ge, Gt, Le, Lt
from cyclopts import UNSET, App, CycloptsError
from cyclopts.argument import Argument, ArgumentCollection
from cyclopts.exceptions import (
    CoercionError,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)
from pydantic import BaseModel, ByteSize, ValidationError
from pydantic.fields import FieldInfo

from swaptier_wire.command_line.sizes import size_text
from swaptier_wire.suggestion import did_you_mean

SIZE = "bytes, 0 or more, or a size as in 64MiB, 1.5GiB or 64MB"

EXPECTED = {
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "finite_number": "a number",
    "bool_parsing": "true or false",
    "byte_size": SIZE,
    "byte_size_unit": SIZE,
}
"""By the type of pydantic's error."""


def refuse_empty_values(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse a flag, a variable or a word that is there and says nothing, as a script with an unset variable gives it.

    The last of an app's `config`, with `env_var_split` one that keeps an empty value.

    Raises:
        CoercionError: names the first of them.
    """
    for argument in arguments:
        for token in argument.tokens:
            if token.implicit_value is UNSET and not token.value.strip():
                is_file = Path in (argument.hint, *get_args(argument.hint))
                expected = "the name of a file" if is_file else "a value"
                raise CoercionError(msg=f"expected {expected}, got nothing", argument=argument, token=token)


def keep_whole(_type: object, value: str, *, delimiter: str | None = None) -> list[str]:
    """Return what a variable says as one text: lists are separated by commas, and an empty one is a mistake."""
    del delimiter
    return [value]


def explain(error: CycloptsError, app: App) -> str:
    """Return why the command line of *app* was refused."""
    cause, argument = error.__cause__, error.argument
    commands = [name for name in app if not name.startswith("-")]
    see = f"; see {' '.join([app.name[0], *(error.command_chain or ()), '--help'])}"
    if isinstance(cause, ValidationError) and argument is not None:
        return _explain_value(cause, argument)
    if isinstance(error, UnknownOptionError):
        given = (error.token.keyword or error.token.value).partition("=")[0]
        known = [name for one in error.argument_collection or () for name in one.names]
        return f"there is no flag {given}{did_you_mean(given, [*known, *commands])}{see}"
    if isinstance(error, UnknownCommandError | UnusedCliTokensError) and error.unused_tokens:
        given = error.unused_tokens[0]
        if given.startswith("-"):
            return f"there is no flag {given}{see}"
        if not error.command_chain:
            return f"there is no command {given!r}{did_you_mean(given, commands)}{see}"
        return f"{given!r} belongs to no flag{see}"
    if isinstance(error, MissingArgumentError) and argument is not None:
        return f"{argument.name} {'needs a value' if argument.name.startswith('-') else 'is missing'}{see}"
    if isinstance(error, CoercionError) and argument is not None:
        return _explain_text(error, argument)
    return " ".join(str(error).split())


def _explain_text(error: CoercionError, argument: Argument) -> str:
    """Return what is wrong with a text that the parser itself makes a value of."""
    name = _given_by(argument)
    if error.msg is not None:
        return f"{name}: {error.msg}"
    given = "" if error.token is None else error.token.value
    if choices := argument.get_choices(force=True):
        return _not_among(name, given, choices)
    return f"{name} must be true or false, not {given or 'nothing'}"


def _explain_value(error: ValidationError, argument: Argument) -> str:
    """Return what is wrong with the value of *argument*, or with a field below it if it stands for a whole record."""
    first = error.errors()[0]
    keys = argument.keys + tuple(str(part) for part in first["loc"])
    below = (one for one in argument.children_recursive if not one.children and one.keys == keys[: len(one.keys)])
    leaf = next(below, argument)
    name = _given_by(leaf)
    if first["type"] == "value_error":
        message = str(first["ctx"]["error"])
        return message if leaf.children or message.startswith("--") else f"{name}: {message}"
    given = first["input"]
    if first["type"] in ("enum", "literal_error"):
        return _not_among(name, str(given), re.findall(r"'([^']+)'", first["ctx"]["expected"]))
    expected = EXPECTED.get(first["type"]) or _bounds(_field(argument.hint, first["loc"]))
    return f"{name} must be {expected}, not {given}" if expected else f"{name}: {first['msg']}, not {given!r}"


def _given_by(argument: Argument) -> str:
    """Return the name of the variable that gave *argument* its value, else its flag."""
    variables = [token.keyword for token in argument.tokens if token.source == "env" and token.keyword]
    return variables[0] if variables else argument.name


def _not_among(name: str, given: str, choices: Sequence[str]) -> str:
    return f"{name} {given!r} is not known{did_you_mean(given, choices)}. Choose from: {', '.join(choices)}"


def _field(model: object, place: Sequence[str | int]) -> FieldInfo | None:
    """Return the field of *model* that is at *place*; None where it is no record."""
    field: FieldInfo | None = None
    for part in place:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            break
        field = model.model_fields[str(part)]
        model = field.annotation
    return field


def _bounds(field: FieldInfo | None) -> str:
    """Return the bounds of a number in words."""
    if field is None:
        return ""
    kinds = (field.annotation, *get_args(field.annotation))
    words = {Ge: "at least {}", Gt: "above {}", Le: "at most {}", Lt: "below {}"}
    bounds = {type(one): getattr(one, type(one).__name__.lower()) for one in field.metadata if type(one) in words}
    if any(isinstance(kind, type) and issubclass(kind, ByteSize) for kind in kinds):
        bounds = {kind: size_text(bound) for kind, bound in bounds.items()}
    if set(bounds) == {Ge, Le}:
        return f"{bounds[Ge]} to {bounds[Le]}"
    return " and ".join(words[kind].format(bound) for kind, bound in bounds.items())
