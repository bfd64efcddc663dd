"""The one command that repeats a race: what was given, and its seed.

Touches nothing: it reads the settings. A variable may be gone when the race is repeated, and stands as its flag; where
the results of the first run are is no setting, and a second run has nothing to do there.
"""

import shlex
from collections.abc import Iterator

from pydantic import BaseModel

from swaptier_loadgen.host.settings import flag_of
from swaptier_loadgen.race.settings import RaceSettings


def repeat_command(settings: RaceSettings) -> str:
    """Return the command that races the same again, with a seed in any case, quoted for a shell."""
    return shlex.join(["swaptier-loadgen", "race", *_words(settings)])


def _words(settings: BaseModel) -> Iterator[str]:
    for name, field in type(settings).model_fields.items():
        value, flag = getattr(settings, name), flag_of(name, field)
        if isinstance(value, BaseModel):
            yield from _words(value)
        elif name not in settings.model_fields_set and name != "seed":
            continue
        elif isinstance(value, bool):
            yield flag if value else f"--no-{flag.removeprefix('--')}"
        else:
            text = ",".join(value) if isinstance(value, tuple) else str(value)
            yield from [f"{flag}={text}"] if text.startswith("-") else [flag, text]
