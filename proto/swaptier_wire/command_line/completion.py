"""The command `completion` of both programs.

Touches standard output.
"""

import sys
from typing import Annotated, Literal

from cyclopts import App, Parameter

from swaptier_wire.command_line.help_layout import epilogue


def add_completion(app: App, program: str, accidents: str) -> None:
    """Add the command to *app*, which is what *program* is called by and ends with *accidents* besides."""

    def completion(
        shell: Annotated[
            Literal["bash", "zsh", "fish"], Parameter(help=f"For bash: source <({program} completion bash)")
        ],
        /,
    ) -> None:
        """Write the script that completes this program's commands and flags in a shell."""
        sys.stdout.write(app.generate_completion(shell=shell))

    app.command(
        completion,
        help_epilogue=epilogue(
            f"Exit status: 0 done; 2 wrong usage; {accidents}.",
            f"source <({program} completion bash)",
            f"{program} completion fish | source",
        ),
    )
