"""The command line `swaptier-loadgen`: the commands together, variables, and how a run ends.

Results go to standard output, progress and logs to standard error. A refusal is one line and status 2, before anything
is started. Where several statuses would be right, `worst` says which one stands.
"""

import os
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Env
from rich.console import Console

from swaptier_loadgen.cli import budget, explore, race, specification
from swaptier_loadgen.cli.output import PROGRAM, say
from swaptier_loadgen.cli.statuses import ACCIDENTS, Refusal, worst
from swaptier_loadgen.race.report import versions
from swaptier_wire.command_line.completion import add_completion
from swaptier_wire.command_line.help_layout import HELP_LAYOUT, epilogue, reflow
from swaptier_wire.command_line.refusals import explain, keep_whole, refuse_empty_values
from swaptier_wire.process.ending_signals import SIGNALS
from swaptier_wire.process.exit_status import ExitStatus, of_signal
from swaptier_wire.process.standard_streams import output_failure
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


add_completion(app, PROGRAM, ACCIDENTS)

reflow(app)


def run(arguments: Sequence[str], withdrawn: Sequence[str] = ()) -> int:
    """Run the command line and return its exit status; say which variables were *withdrawn* before."""
    if withdrawn:
        say(f"ignored, since gRPC would change the transport: {', '.join(withdrawn)}")
    for variable in _unknown_variables():
        say(f"a variable that is not known, and ignored: {variable}")
    statuses = [_status_of(arguments)]
    if SIGNALS.received is not None:
        statuses.append(of_signal(SIGNALS.received))
    if (failure := output_failure()) is not None:
        say(f"standard output could not be written: {failure.strerror}")
        statuses.append(ExitStatus.NOT_WRITTEN)
    return worst(statuses)


def _status_of(arguments: Sequence[str]) -> int:
    try:
        status: int | None = app(arguments, console=Console())
    except CycloptsError as error:
        say(explain(error, app))
        return ExitStatus.USAGE
    except Refusal as refusal:
        say(str(refusal))
        return refusal.status
    return ExitStatus.AS_SPECIFIED if status is None else status


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
