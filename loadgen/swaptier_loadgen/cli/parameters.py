"""Flags that several commands have, and what their texts must be.

Touches nothing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, Token
from pydantic import AfterValidator

from swaptier_client.mm.policy import ERAS, POLICIES
from swaptier_loadgen.host.settings import RESULTS, RUN, flag
from swaptier_loadgen.race.settings import complete_list, names_in, policies_of
from swaptier_wire.addresses import Address


def names_of(known: Mapping[str, object]) -> Parameter:
    """Return a parameter that takes names of *known*, separated by commas, or all, and completes them in a shell."""

    def convert(_type: object, tokens: Sequence[Token]) -> tuple[str, ...]:
        return names_in([token.value for token in tokens], known)

    def show(names: Sequence[str]) -> str:
        return "all" if tuple(names) == tuple(known) else ",".join(names)

    return Parameter(converter=convert, completer=complete_list(["all", *known]), show_default=show)


def _eras(_type: object, tokens: Sequence[Token]) -> tuple[str, ...]:
    return policies_of([token.value for token in tokens])


def _metrics_address(text: str) -> str:
    return Address.parse(text, allows_unix=False)


Policies = Annotated[
    tuple[str, ...],
    flag(RUN, f"Policies, separated by commas, or all: {', '.join(POLICIES)}.", "--policy", metavar="NAMES"),
    names_of(POLICIES),
]

Era = Annotated[
    tuple[str, ...],
    flag(RUN, f"Instead of --policy, the kernels whose policy to race: {', '.join(ERAS)}.", "--era", metavar="NAMES"),
    Parameter(converter=_eras, completer=complete_list(ERAS), show_default=False),
]

JsonFile = Annotated[
    Path | None,
    flag(
        RESULTS,
        "Write the result to this file as JSON; - is standard output, the tables go to standard error then.",
        "--json",
        metavar="FILE",
    ),
    Parameter(allow_leading_hyphen=True),
]

MetricsAddress = Annotated[str, AfterValidator(_metrics_address)]
"""HOST:PORT."""

TierAddress = Annotated[str, AfterValidator(Address.parse)]
"""HOST:PORT or unix:PATH."""
