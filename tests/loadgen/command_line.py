"""The command line in this process: what a command wrote, and the status it ended with."""

import contextlib
import io
from typing import NamedTuple

import pytest

from swaptier_loadgen.cli.app import run


class Result(NamedTuple):
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """Everything it wrote."""
        return self.stdout + self.stderr


def invoke(*arguments: str, variables: dict[str, str] | None = None) -> Result:
    """Run `swaptier-loadgen` with *arguments*, and with *variables* in its environment."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("COLUMNS", raising=False)  # of the terminal that the tests were started in
        for name, value in (variables or {}).items():
            environment.setenv(name, value)
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            status = run(arguments)
    return Result(status, stdout.getvalue(), stderr.getvalue())
