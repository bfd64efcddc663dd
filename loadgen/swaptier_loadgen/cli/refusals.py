"""What the command line's parser and the settings object to, as one line that names the flag.

Pure.
"""

from enum import StrEnum

from annotated_types import Ge, Gt, Le, Lt
from cyclopts import CycloptsError
from cyclopts.exceptions import CoercionError, UnknownOptionError, UnusedCliTokensError
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from swaptier_loadgen.host.settings import flag_of
from swaptier_wire.suggestion import did_you_mean

EXPECTED = {
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "finite_number": "a number",
    "byte_size": "bytes, 0 or more, or a size as in 64MiB, 1.5GiB or 64MB",
    "byte_size_unit": "bytes, 0 or more, or a size as in 64MiB, 1.5GiB or 64MB",
}
"""By the type of pydantic's error."""


def explain(error: CycloptsError) -> str:
    """Return why the command line was refused."""
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        assert error.argument is not None, "an argument was validated"
        return _explain_value(cause, error.argument.name, error.argument.hint)
    if isinstance(error, UnknownOptionError):
        given = (error.token.keyword or error.token.value).partition("=")[0]
        known = [name for argument in error.argument_collection for name in argument.names]
        return f"there is no flag {given}{did_you_mean(given, known)}; see --help"
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"{error.unused_tokens[0]!r} belongs to no flag; see --help"
    if isinstance(error, CoercionError) and error.msg is not None and error.argument is not None:
        return f"{error.argument.name}: {error.msg}"
    return " ".join(str(error).split())


def _explain_value(error: ValidationError, flag: str, model: object) -> str:
    """Return what is wrong with the value of *flag*, or with a field below it if it stands for a whole record."""
    first = error.errors()[0]
    field: FieldInfo | None = None
    for part in first["loc"]:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            break
        field = model.model_fields[str(part)]
        flag, model = flag_of(str(part), field), field.annotation
    is_record = isinstance(model, type) and issubclass(model, BaseModel)
    if first["type"] == "value_error":
        message = str(first["ctx"]["error"])
        return message if is_record or message.startswith("--") else f"{flag}: {message}"
    given = first["input"]
    if isinstance(model, type) and issubclass(model, StrEnum):
        return f"{flag} {given!r} is not known{did_you_mean(str(given), model)}. Choose from: {', '.join(model)}"
    expected = EXPECTED.get(first["type"], "" if field is None else _bounds(field))
    return f"{flag} must be {expected}, not {given}" if expected else f"{flag}: {first['msg']}, not {given!r}"


def _bounds(field: FieldInfo) -> str:
    """Return the bounds of a number in words."""
    words = {Ge: "at least {}", Gt: "above {}", Le: "at most {}", Lt: "below {}"}
    bounds = {type(one): getattr(one, type(one).__name__.lower()) for one in field.metadata if type(one) in words}
    if set(bounds) == {Ge, Le}:
        return f"{bounds[Ge]} to {bounds[Le]}"
    return " and ".join(words[kind].format(bound) for kind, bound in bounds.items())
