"""What the flags of a race say: each text becomes the value it stands for, or one line that says what is wrong.

Touches nothing. What values may go together is `config.py`'s.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from pydantic import ByteSize, TypeAdapter, ValidationError

from swaptier_client.mm.counters import INJECTABLE
from swaptier_client.mm.policy import ERAS, POLICIES
from swaptier_client.security import Security, SecurityUnusable
from swaptier_loadgen.faults.spec import NO_FAULTS, FaultProblem, Faults
from swaptier_loadgen.host.messages import parse_tiers
from swaptier_loadgen.race.settings import (
    DEFAULT_INSTALL_FAILURE_RATE,
    SWAP_DEVICES_MAX,
    UsageProblem,
    check_range,
    did_you_mean,
    find_policy,
)
from swaptier_wire.types import AreaOptions

_SIZE = TypeAdapter(ByteSize)

Choice = TypeVar("Choice", bound=StrEnum)


def parse_policies(text: str) -> tuple[str, ...]:
    """Return the policies named in *text*, separated by commas, each once; "all" is all that run.

    Raises:
        UsageProblem: a name is unknown, or none is given.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise UsageProblem(f"--policy names no policy. Policies: {', '.join(POLICIES)}, or all")
    if "all" in names:
        return tuple(POLICIES)
    return tuple(dict.fromkeys(find_policy(name) for name in names))


def choose_policies(policy: str | None, era: str | None) -> tuple[str, ...]:
    """Return the policies that --policy and --era ask for: all, when neither is given.

    Raises:
        UsageProblem: both are given, or a name is unknown.
    """
    if era is None:
        return parse_policies("all" if policy is None else policy)
    if policy is not None:
        raise UsageProblem("--era and --policy exclude each other: an era is the policy its kernels had")
    return parse_era(era)


def lock_contended_rate(given: float | None, others: Sequence[str]) -> float:
    """Return what --install-failure-rate stands for: its default, unless other causes were asked for instead."""
    if given is None:
        return 0.0 if others else DEFAULT_INSTALL_FAILURE_RATE
    return given


def parse_era(text: str) -> tuple[str, ...]:
    """Return the policies that kernels of the eras named in *text* had, separated by commas, each once.

    Raises:
        UsageProblem: there is no such era.
    """
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in ERAS:
            raise UsageProblem(f"--era: there is no era {name!r}. Eras: {', '.join(ERAS)}")
    return tuple(dict.fromkeys(ERAS[name].name for name in names))


def parse_install_failures(texts: Iterable[str]) -> dict[str, float]:
    """Return the rate of each cause, from CAUSE=RATE.

    Raises:
        UsageProblem: a cause is unknown or given twice, or a rate is none.
    """
    rates: dict[str, float] = {}
    for text in texts:
        cause, _, rate = text.partition("=")
        cause = cause.strip().replace("-", "_")
        if cause not in map(str, INJECTABLE):
            raise UsageProblem(
                f"--install-failure: {cause!r} is no cause that can be injected{did_you_mean(cause, INJECTABLE)} "
                f"Causes: {', '.join(INJECTABLE)}"
            )
        if cause in rates:
            raise UsageProblem(f"--install-failure gives {cause} twice")
        try:
            rates[cause] = float(rate)
        except ValueError:
            raise UsageProblem(f"--install-failure {text!r} is not CAUSE=RATE, as in {cause}=0.01") from None
    return rates


def parse_faults(text: str | None) -> Faults:
    """Return the faults that --fault names.

    Raises:
        UsageProblem: it cannot be read.
    """
    if text is None:
        return NO_FAULTS
    try:
        return Faults.parse(text)
    except FaultProblem as problem:
        raise UsageProblem(f"--fault: {problem}") from None


def security(tls_ca: Path | None, tls_cert: Path | None, tls_key: Path | None, token_file: Path | None) -> Security:
    """Return how hosts show a tier who they are, and make sure of it.

    Raises:
        UsageProblem: the flags do not fit together.
    """
    try:
        return Security(tls_ca, tls_cert, tls_key, token_file)
    except SecurityUnusable as problem:
        raise UsageProblem(str(problem)) from None


def choose(flag: str, text: str, choices: type[Choice]) -> Choice:
    """Return the one of *choices* that is called *text*.

    Raises:
        UsageProblem: none is; names them, and the most similar one.
    """
    for choice in choices:
        if choice == text:
            return choice
    raise UsageProblem(f"{flag} {text!r} is not known{did_you_mean(text, choices)} Choices: {', '.join(choices)}")


def area_options(zswap_max: str | None, *, writeback: bool) -> AreaOptions:
    """Return what each host asks of its areas.

    Raises:
        UsageProblem: the quota is no size, with a unit or without.
    """
    try:
        quota = None if zswap_max is None else int(_SIZE.validate_python(zswap_max))
    except ValidationError:
        raise UsageProblem(
            f"--zswap-max {zswap_max!r} is not bytes, 0 or more, or a size as in 64MiB, 1.5GiB or 64MB"
        ) from None
    return AreaOptions(pool_bytes_max=quota, writeback=writeback)


def parse_target(text: str) -> str:
    """Return *text* if it names tiers, each HOST:PORT or unix:PATH, perhaps with @PRIORITY, separated by commas.

    Raises:
        UsageProblem: it does not.
    """
    tiers = parse_tiers(text)
    for tier in tiers:
        parse_endpoint("--target", tier.address, unix=True)
    check_range("the number of tiers in --target", len(tiers), 1, SWAP_DEVICES_MAX)
    return text


def parse_endpoint(flag: str, text: str, *, unix: bool) -> str:
    """Return *text* if it is HOST:PORT, or unix:PATH where *unix* allows it.

    Raises:
        UsageProblem: it is neither.
    """
    if unix and text.startswith("unix:") and len(text) > len("unix:"):
        return text
    scheme, is_url, rest = text.partition("://")
    if is_url:
        raise UsageProblem(f"{flag} {text!r} is a URL: leave {scheme}:// out, as in {rest.partition('/')[0]}")
    host, _, port = text.rpartition(":")
    if host and port.isascii() and port.isdecimal() and int(port) < 1 << 16:
        return text
    raise UsageProblem(f"{flag} {text!r} is not HOST:PORT{' or unix:PATH' if unix else ''}")
