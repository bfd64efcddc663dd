"""The one command that repeats a race: what it was given, and its seed.

Touches nothing: it reads what the command line's parser found.
"""

import shlex

import typer

RESULTS = ("json_file", "metrics")
"""Where the results of the first run are; a second one has nothing to do there."""

GIVEN = ("COMMANDLINE", "ENVIRONMENT")
"""Sources of a value that was given; a variable may be gone when the race is repeated, and stands as its flag."""


def repeat_command(context: typer.Context) -> str:
    """Return the command that races the same again, with a seed in any case, quoted for a shell."""
    words = context.command_path.split()  # program and command
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        is_given = source is not None and source.name in GIVEN
        if name in RESULTS or not (is_given or name == "seed"):
            continue
        value = context.params[name]
        if isinstance(value, bool):
            words += (parameter.opts if value else parameter.secondary_opts)[:1]
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            words += [parameter.opts[0], str(one)]
    return shlex.join(words)
