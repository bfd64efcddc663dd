"""What a race hands on to the servers that it starts itself: how much they hold, and where.

Touches the environment and a process: the server's own check of its configuration says whether it would take them.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict

from swaptier_loadgen.host.settings import TIERS, flag
from swaptier_loadgen.race.own_folder import own_folder

OWN_ADDRESSES = ("--listen", "127.0.0.1:0", "--metrics", "off")
"""Of a server that only its own race talks to."""

SWAP_FILE_NAME = "swap"
"""Of a swap file that exists for one race only."""


SERVER_VARIABLES = "SWAPTIER_"
"""Prefix of the variables that a server takes for flags."""


def own_environment() -> dict[str, str]:
    """Return the environment of a server of ours: it does what the race's flags say, whatever the user's servers do."""
    return {name: text for name, text in os.environ.items() if not name.upper().startswith(SERVER_VARIABLES)}


class FlagsRefused(Exception):
    """The server would not take its flags. One line that names the flag."""


class ServerFlags(BaseModel):
    """Flags of `swaptier-server`, as they were given to the race; None where they were not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pool_limit: Annotated[
        str | None,
        flag(TIERS, "Of each server that the race starts, as in 2MiB; see swaptier-server --help.", metavar="SIZE"),
    ] = None
    device: Annotated[
        str | None,
        flag(
            TIERS,
            "Of each server that the race starts: memory, or sqlite:PATH, which outlives it.",
            metavar="DEVICE",
        ),
    ] = None
    durability: Annotated[
        Literal["memory", "write-through"] | None,
        flag(
            TIERS,
            "Of each server that the race starts. Without --device, write-through goes to a "
            "file that is there for this race only.",
            metavar="NAME",
        ),
    ] = None

    def __bool__(self) -> bool:
        """Whether any was given."""
        return bool(self._given())

    @property
    def needs_swap_file(self) -> bool:
        """Every page goes to a device that outlives the server, and none was named: the race makes one for itself."""
        return self.is_durable and self.device is None

    @property
    def is_durable(self) -> bool:
        """A store is answered when it survives the server."""
        return self.durability == "write-through"

    def check(self) -> None:
        """Ask the server whether it would start with these.

        Raises:
            FlagsRefused: see there.
        """
        with own_folder() as folder:
            flags = (*OWN_ADDRESSES, *self.arguments(0, folder))
            command = [sys.executable, "-m", "swaptier_server", "check-config", *flags]
            asked = subprocess.run(  # noqa: S603 - our own command
                command, env=own_environment(), capture_output=True, text=True, check=False
            )
        if asked.returncode:
            raise FlagsRefused(asked.stderr.strip().rpartition("\n")[2].removeprefix("swaptier-server: "))

    def arguments(self, number: int, folder: Path | None) -> list[str]:
        """Return the command line of the server with this *number*; *folder* is for a swap file of the race's own."""
        values = self._given()
        if self.needs_swap_file:
            assert folder is not None, "a race that needs a swap file has a folder for it"
            values["device"] = f"sqlite:{folder / SWAP_FILE_NAME}"
        words = []
        for name, value in values.items():
            # Two servers never share a swap file.
            own = f"{value}.{number}" if number and value.startswith("sqlite:") else value
            words += [f"--{name.replace('_', '-')}", own]
        return words

    def _given(self) -> dict[str, str]:
        return {name: value for name, value in self if value is not None}
