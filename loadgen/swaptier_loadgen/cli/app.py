"""The command line `swaptier-loadgen`: the commands together, variables, and how a run ends.

Results go to standard output, progress and logs to standard error. A refusal is one line and status 2, before anything
is started.
"""

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Env
from rich.console import Console

from swaptier_loadgen.cli import budget, explore, race, specification
from swaptier_loadgen.cli.output import PROGRAM, say
from swaptier_loadgen.cli.statuses import STATUS_AS_SPECIFIED, STATUS_USAGE, Refusal
from swaptier_loadgen.race.report import versions
from swaptier_wire.command_line.help_layout import HELP_LAYOUT, epilogue, reflow
from swaptier_wire.command_line.refusals import explain, keep_whole, refuse_empty_values
from swaptier_wire.suggestion import did_you_mean

VARIABLES = "SWAPTIER_LOADGEN_"
"""Prefix of all variables of this program; the command's name and the flag's follow."""


app = App(
    name=PROGRAM,
    help="Race emulated hosts against a remote swap tier and check every byte of every page.",
    version=lambda: f"{PROGRAM} {versions()['swaptier']}",
    version_format="plaintext",
    help_format="plaintext",
    help_formatter=HELP_LAYOUT,
    help_epilogue=epilogue(
        "What each command ends with is said in its own help.",
        f"{PROGRAM} race --policy exclusive,claim --seed 1",
        f"{PROGRAM} explore --world lost-reply --policy claim",
    ),
    config=[Env(VARIABLES, show=False), refuse_empty_values],
    default_parameter=Parameter(negative_iterable=(), allow_repeating=True, env_var_split=keep_whole),
    print_error=False,
    exit_on_error=False,
    result_action="return_value",
)
for module, command in (
    (race, race.race),
    (explore, explore.explore),
    (specification, specification.specification),
    (budget, budget.budget),
):
    app.command(command, help_epilogue=module.EPILOGUE)
app.register_install_completion_command()
reflow(app)


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit status."""
    for variable in _unknown_variables():
        say(f"a variable that is not known, and ignored: {variable}")
    try:
        status: int | None = app(arguments, console=Console())
    except CycloptsError as error:
        say(explain(error, app))
        return STATUS_USAGE
    except Refusal as refusal:
        say(str(refusal))
        return refusal.status
    return STATUS_AS_SPECIFIED if status is None else status


def _unknown_variables() -> list[str]:
    """Return the variables that have this program's prefix and stand for no flag, with a likely meant one."""
    given = sorted(name for name in os.environ if name.startswith(VARIABLES))
    if not given:
        return []
    known = [
        f"{VARIABLES}{command}{name}".replace("-", "_").upper()
        for command in ("race", "explore", "specification", "budget")
        for argument in app[command].assemble_argument_collection()
        for name in (f"_{flag.removeprefix('--')}" for flag in argument.names)
    ]
    return [f"{name}{did_you_mean(name, known)}" for name in given if name not in known]


def main(withdrawn: Sequence[str] = ()) -> None:
    """Run the command line of this process and exit; say which variables were *withdrawn* before."""
    if withdrawn:
        say(f"ignored, since gRPC would change the transport: {', '.join(withdrawn)}")
    sys.exit(run(sys.argv[1:]))
