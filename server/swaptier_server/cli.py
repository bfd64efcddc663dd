"""The command line `swaptier-server`: its commands, variables, and refusals in one line.

Touches the command line, the environment, stdin, stdout and stderr.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Env
from rich.console import Console

from swaptier_server.config import ENV_PREFIX, ServerConfig, flag, given_by, variable
from swaptier_server.errors import ConfigError
from swaptier_wire.command_line.completion import add_completion
from swaptier_wire.command_line.help_layout import HELP_LAYOUT, epilogue, reflow
from swaptier_wire.command_line.refusals import explain, keep_whole, refuse_empty_values
from swaptier_wire.environment import withdraw_grpc_variables
from swaptier_wire.process.endings import one_line
from swaptier_wire.process.exit_status import ExitStatus
from swaptier_wire.suggestion import did_you_mean
from swaptier_wire.version import program_version

PROGRAM = "swaptier-server"
OTHER_PROGRAMS = ("SWAPTIER_LOADGEN_", "SWAPTIER_HEALTH_")
"""Prefixes of variables that the load generator and the health check look after themselves."""

VARIABLES = f"Every flag can be given as a variable, as in {ENV_PREFIX}POOL_LIMIT=64MiB; the flag wins."

ACCIDENTS = (
    "5 what was asked for could not be written to standard output; 6 out of memory or file descriptors; 70 a defect of "
    "this program"
)
"""What every command can end with besides its own statuses."""

STATUSES = (
    "Exit status: 0 drained, or as asked; 2 wrong usage, or the configuration, a file or an address cannot be used; 3 "
    f"the health check found no server, or one that does not serve; {ACCIDENTS}, or gRPC ended and could not be "
    "started again; 130 SIGINT came twice, or before it served; 131 SIGQUIT came; 143 SIGTERM came twice, or before "
    "it served."
)

Config = Annotated[ServerConfig, Parameter(name="*")]
DEFAULTS = ServerConfig.model_validate({})

app = App(
    name=PROGRAM,
    help=ServerConfig.__doc__,
    version=lambda: f"{PROGRAM} {program_version()}",
    version_format="plaintext",
    help_format="plaintext",
    help_formatter=HELP_LAYOUT,
    help_epilogue=epilogue(
        f"{VARIABLES} {STATUSES}",
        f"{PROGRAM} --device sqlite:/var/tmp/swap",
        f"{PROGRAM} check-config --tokens tokens",
    ),
    config=[Env(ENV_PREFIX, command=False, show=False), refuse_empty_values],
    # Of a flag that is repeated the last one counts, so that a script can add to a command.
    default_parameter=Parameter(allow_repeating=True, env_var_split=keep_whole),
    print_error=False,
    exit_on_error=False,
    result_action="return_value",
)


@app.default
@app.command(
    help_epilogue=epilogue(
        f"{VARIABLES} {STATUSES}",
        f"{PROGRAM} serve --pool-limit 1GiB",
        f"{PROGRAM} serve --listen unix:/run/tier",
    )
)
def serve(*, config: Config = DEFAULTS) -> int:
    """Serve until SIGTERM or SIGINT; this is what the program does without a command."""
    withdrawn = withdraw_grpc_variables()
    from swaptier_server.malloc import keep_freed_memory
    from swaptier_server.serving import serve_until_signal

    keep_freed_memory()
    return serve_until_signal(config, unknown_variables(), withdrawn)


@app.command(
    help_epilogue=epilogue(
        f"{VARIABLES} Exit status: 0 it can be used; 2 it cannot, or wrong usage; {ACCIDENTS}.",
        f"{PROGRAM} check-config --tokens tokens",
        f"{PROGRAM} check-config --listen 0.0.0.0:50051",
    )
)
def check_config(*, config: Config = DEFAULTS) -> int:
    """Show every value and where it came from, check files and addresses, and exit: 0 fine, 2 not."""
    withdrawn = withdraw_grpc_variables()
    from swaptier_server.check import check_files, effective_values

    for line in effective_values(config, sys.argv[1:]):
        sys.stdout.write(f"{line}\n")
    for unknown in unknown_variables():
        sys.stdout.write(f"not known, and ignored: {unknown}\n")
    if withdrawn:
        sys.stdout.write(f"ignored, since gRPC would change the transport: {', '.join(withdrawn)}\n")
    problems = []
    for finding in check_files(config):
        if finding.is_problem:
            problems.append(finding.text)
        else:
            sys.stdout.write(f"{finding.text}\n")
    sys.stdout.write(f"\nthis configuration {'cannot' if problems else 'can'} be used\n")
    sys.stdout.flush()  # where both outputs meet, the problems stand below everything else
    for problem in problems:
        _refuse(problem)
    return ExitStatus.USAGE if problems else 0


@app.command(
    help_epilogue=epilogue(
        f"Exit status: 0 done; 2 wrong usage, or a token that cannot be used; {ACCIDENTS}.",
        f"{PROGRAM} hash-token web < web.token",
        f"{PROGRAM} hash-token web < web.token >> tokens",
    )
)
def hash_token(name: str, /) -> None:
    """Read a token from standard input and write the line for --tokens that lets it in as tenant NAME.

    Parameters
    ----------
    name:
        The tenant.
    """
    from swaptier_server.access.tokens import TOKEN_CHARACTERS_MAX, TokensUnusable, hash_token

    try:
        token = sys.stdin.buffer.readline(TOKEN_CHARACTERS_MAX + 2).decode("ascii", "replace").strip()
    except OSError as error:
        raise ConfigError(f"hash-token: standard input cannot be read: {error.strerror}") from error
    try:
        sys.stdout.write(f"{hash_token(name, token)}\n")
    except TokensUnusable as error:
        raise ConfigError(f"hash-token: {error}") from error


@app.command(
    help_epilogue=epilogue(
        f"Exit status: 0 it serves; 2 wrong usage, or a file that cannot be used; 3 it does not serve, or is not "
        f"there; {ACCIDENTS}.",
        f"{PROGRAM} healthcheck",
        f"{PROGRAM} healthcheck unix:/run/tier",
    )
)
def healthcheck(address: str | None = None, /) -> int:
    """Ask a running server whether it serves, and exit: 0 it does, 3 it does not.

    Parameters
    ----------
    address:
        HOST:PORT or unix:PATH; without, where this container's server listens.
    """
    from swaptier_server.healthcheck import main as check

    return check([] if address is None else [address], f"{PROGRAM}: healthcheck")


@app.command(
    help_epilogue=epilogue(
        "Exit status: 0 done; 2 wrong usage, no swap file, or no copy can be made there; 3 the server refused, ended "
        f"or did not answer; {ACCIDENTS.replace('output;', 'output, or the copy to its disk;')}.",
        f"{PROGRAM} backup /var/tmp/swap /var/tmp/copy",
    )
)
def backup(file: Path, dest: Path, /) -> int:
    """Copy a swap file, also of a running server, and exit: 0 done, 2 wrong usage, 3 refused, 5 not written.

    The copy is of one moment, is readable by its owner only, and is a device for another server. It has what the device
    has; pages that only the pool has are not in it. The running server makes it, so DEST is a name where that runs.

    Parameters
    ----------
    file:
        PATH of --device sqlite:PATH.
    dest:
        The copy. A file that is there is not overwritten.
    """
    from swaptier_server.backup import ask_for_backup

    status, says = ask_for_backup(file, dest)
    if status:
        _refuse(f"backup: {says}")
    else:
        sys.stdout.write(f"{says}\n")
    return status


@app.command(
    help_epilogue=epilogue(
        f"Exit status: 0 whole; 1 damaged; 2 wrong usage, or no swap file, or one that cannot be read; 3 a server has "
        f"it; {ACCIDENTS}. A file with a log is read in a copy; 5, too, where there is no room for that.",
        f"{PROGRAM} check-file /var/tmp/swap",
    )
)
def check_file(file: Path, /) -> int:
    """Say what is in a swap file, what of it is damaged, and what would be lost, and exit: 0 whole, 1 damaged.

    Reads every page and changes nothing. A file that a server has is refused: copy it with backup, and check the copy.

    Parameters
    ----------
    file:
        PATH of --device sqlite:PATH.
    """
    from swaptier_server.check_file import check_file as check

    status, lines = check(file)
    if status not in (ExitStatus.AS_SPECIFIED, ExitStatus.VERDICT):
        _refuse(f"check-file: {lines[0]}")
    else:
        sys.stdout.writelines(f"{line}\n" for line in lines)
    return status


add_completion(app, PROGRAM, ACCIDENTS)


@app.command(
    help_epilogue=epilogue(
        f"Exit status: 0 done; {ACCIDENTS}.",
        f"{PROGRAM} version",
    )
)
def version() -> None:
    """Show the version."""
    sys.stdout.write(f"{PROGRAM} {program_version()}\n")


reflow(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # gRPC's own complaints about addresses, written by C, would stand around our one clear line.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        status: int | None = app(arguments, console=Console())
    except CycloptsError as error:
        return _refuse(explain(error, app))
    except ConfigError as error:
        return _refuse(str(error))
    return status or 0


def _by_its_variable(problem: str) -> str:
    """Return *problem*, which begins with the flag of a field, with the variable that was given in its place."""
    name, separator, rest = problem.partition(":")
    field = next((field for field in ServerConfig.model_fields if flag(field) == name), None)
    given = None if field is None else given_by(field, sys.argv[1:])
    return problem if given is None else f"{given}{separator}{rest}"


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the `SWAPTIER_*` variables that this program does not know, with a likely meant one if there is.

    Not an error: other programs of the family share the prefix.
    """
    known = [variable(name) for name in ServerConfig.model_fields]
    ours = [name for name in sorted(environ) if name.upper().startswith(ENV_PREFIX) and name not in known]
    return [
        f"{name}{did_you_mean(name.upper(), known)}" for name in ours if not name.upper().startswith(OTHER_PROGRAMS)
    ]


def _refuse(problem: str) -> int:
    sys.stderr.write(f"{PROGRAM}: {one_line(_by_its_variable(problem))}\n")
    return ExitStatus.USAGE
