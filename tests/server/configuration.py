"""The configuration that the tests' own servers have: that of flags and variables."""

from collections.abc import Sequence

from cyclopts import CycloptsError

from swaptier_server.cli import DEFAULTS, app
from swaptier_server.config import ServerConfig
from swaptier_server.errors import ConfigError
from swaptier_wire.command_line.refusals import explain


def load_config(arguments: Sequence[str]) -> ServerConfig:
    """Return the configuration that `serve` would have with these *arguments* and the environment.

    Raises:
        ConfigError: something cannot be used; names the flag or variable.
    """
    try:
        _, bound, _ = app.parse_args(["serve", *arguments])
    except CycloptsError as error:
        raise ConfigError(explain(error, app)) from None
    config = bound.arguments.get("config", DEFAULTS)
    assert isinstance(config, ServerConfig)
    return config
