"""What goes wrong on purpose between hosts and tier: the faults of a race, read from one line and written as one.

Pure. The line is what `--fault` takes:

    drop-reply=0.01,delay=2ms..20ms,duplicate=0.01,reorder=0.01,disconnect=1/s,kill-server=every:5s,pause-server=every:7s:1s

The first four happen to messages of the stream, `disconnect` to connections, the last two to the server's process. What
each does is said at its field. The hazards behind them are rows of KERNEL.md section 5.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self, TypeVar

T = TypeVar("T")

SHARE_MAX = 0.5
"""Of messages that one kind of fault strikes: beyond it hosts would mostly wait."""

DELAY_SECONDS_MAX = 10.0
"""As long as a host waits for an answer by default."""

DISCONNECTS_PER_SECOND_MAX = 100.0
"""Beyond what hosts can reconnect."""

EVERY_SECONDS_MIN = 1.0
"""Between two kills or pauses: a server takes about as long to start."""

EVERY_SECONDS_MAX = 3600.0

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m)")


class FaultProblem(Exception):
    """The line cannot be used. Says which part of it, why, and what would be right."""


class Delay(NamedTuple):
    """Answers that come late."""

    share: float
    """Of answers."""
    least_seconds: float
    most_seconds: float


class Pause(NamedTuple):
    """A server that stops (SIGSTOP) and goes on (SIGCONT)."""

    every_seconds: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Faults:
    """The faults of one race. All off by default."""

    drop_reply: float = 0.0
    """Share of the stream's messages whose answer never arrives: they were applied."""
    delay: Delay | None = None
    """Answers held back on the way, in order."""
    duplicate: float = 0.0
    """Share of messages that arrive a second time, some messages later."""
    reorder: float = 0.0
    """Share of messages that the next one overtakes."""
    disconnects_per_second: float = 0.0
    """Connections reset (RST) at random moments, of all hosts together."""
    kill_server_seconds: float = 0.0
    """The server is killed (SIGKILL) so often, and started again with the same flags. 0: never."""
    pause_server: Pause | None = None
    """The server stops (SIGSTOP) for so long, so often, and goes on (SIGCONT)."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the faults that *text* names, separated by commas.

        Raises:
            FaultProblem: see there.
        """
        values: dict[str, object] = {}
        for part in text.split(","):
            name, _, value = part.strip().partition("=")
            kind = _KINDS.get(name)
            if kind is None:
                close = difflib.get_close_matches(name, _KINDS, n=1, cutoff=0.5)
                hint = f"; did you mean {close[0]}?" if close else "."
                raise FaultProblem(f"there is no fault {name!r}{hint} Faults: {', '.join(_KINDS)}")
            if kind.field in values:
                raise FaultProblem(f"{name} is given twice")
            try:
                values[kind.field] = kind.parse(value.strip())
            except ValueError as error:
                raise FaultProblem(f"{name}={value} is not right: {error}; for example {name}={kind.example}") from None
        return cls(**values)  # type: ignore[arg-type]  # each parser of _KINDS returns what its field holds

    def __str__(self) -> str:
        """Return the line that names these faults; empty for none."""
        parts = {name: kind.write(getattr(self, kind.field)) for name, kind in _KINDS.items()}
        return ",".join(f"{name}={value}" for name, value in parts.items() if value)

    def __bool__(self) -> bool:
        """Whether anything goes wrong."""
        return bool(str(self))

    @property
    def on_the_way(self) -> bool:
        """Whether something goes wrong between hosts and server."""
        on_messages = self.drop_reply or self.delay or self.duplicate or self.reorder
        return bool(on_messages or self.disconnects_per_second)

    @property
    def on_the_server(self) -> bool:
        """Whether something happens to the server's process, which must be our own then."""
        return bool(self.kill_server_seconds or self.pause_server)


NO_FAULTS = Faults()


def _share(text: str) -> float:
    share = _number(text)
    if not 0 < share <= SHARE_MAX:
        raise ValueError(f"a share of messages is above 0 and at most {SHARE_MAX:g}")
    return share


def _delay(text: str) -> Delay:
    first, colon, rest = text.partition(":")
    share = _share(first) if colon else 1.0
    least, dots, most = (rest if colon else text).partition("..")
    delay = Delay(share, _seconds(least), _seconds(most if dots else least))
    if not 0 <= delay.least_seconds <= delay.most_seconds <= DELAY_SECONDS_MAX or not delay.most_seconds:
        raise ValueError(f"a delay goes from less to more, up to {DELAY_SECONDS_MAX:g}s")
    return delay


def _per_second(text: str) -> float:
    number, _, unit = text.partition("/")
    if unit not in ("s", "m"):
        raise ValueError("a rate is a number per s or per m")
    rate = _number(number) / _UNITS[unit]
    if not 0 < rate <= DISCONNECTS_PER_SECOND_MAX:
        raise ValueError(f"a rate is above 0 and at most {DISCONNECTS_PER_SECOND_MAX:g}/s")
    return rate


def _every(text: str) -> float:
    word, _, duration = text.partition(":")
    if word != "every":
        raise ValueError("it says how often")
    seconds = _seconds(duration)
    if not EVERY_SECONDS_MIN <= seconds <= EVERY_SECONDS_MAX:
        raise ValueError(f"it happens every {EVERY_SECONDS_MIN:g}s to {EVERY_SECONDS_MAX:g}s")
    return seconds


def _pause(text: str) -> Pause:
    every, _, duration = text.removeprefix("every:").partition(":")
    if not text.startswith("every:") or not duration:
        raise ValueError("it says how often and for how long")
    pause = Pause(_every(f"every:{every}"), _seconds(duration))
    if not 0 < pause.seconds < pause.every_seconds:
        raise ValueError("a pause is over before the next one begins")
    return pause


def _number(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?([eE]-?\d+)?", text):
        raise ValueError(f"{text!r} is not a number")
    return float(text)


def _seconds(text: str) -> float:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a duration: a number and one of {', '.join(_UNITS)}")
    return round(float(found[1]) * _UNITS[found[2]], 9)


def _written(seconds: float) -> str:
    """Return a duration in the largest unit that does it no harm."""
    for unit in ("s", "ms"):
        if (number := round(seconds / _UNITS[unit], 9)) >= 1:
            return f"{number:g}{unit}"
    return f"{round(seconds / 1e-6, 3):g}us"


def _write_delay(delay: Delay | None) -> str:
    if delay is None:
        return ""
    share = "" if delay.share == 1 else f"{delay.share:g}:"
    return f"{share}{_written(delay.least_seconds)}..{_written(delay.most_seconds)}"


def _write_pause(pause: Pause | None) -> str:
    return f"every:{_written(pause.every_seconds)}:{_written(pause.seconds)}" if pause else ""


class _Kind(NamedTuple):
    """One kind of fault: its field, how its value is read and written, and one that is right."""

    field: str
    parse: Callable[[str], object]
    write: Callable[..., str]
    example: str


def _write_share(share: float) -> str:
    return f"{share:g}" if share else ""


_KINDS: Mapping[str, _Kind] = {
    "drop-reply": _Kind("drop_reply", _share, _write_share, "0.01"),
    "delay": _Kind("delay", _delay, _write_delay, "2ms..20ms, or 0.1:2ms..20ms for a tenth of the answers"),
    "duplicate": _Kind("duplicate", _share, _write_share, "0.01"),
    "reorder": _Kind("reorder", _share, _write_share, "0.01"),
    "disconnect": _Kind("disconnects_per_second", _per_second, lambda rate: f"{rate:g}/s" if rate else "", "1/s"),
    "kill-server": _Kind(
        "kill_server_seconds", _every, lambda seconds: f"every:{_written(seconds)}" if seconds else "", "every:5s"
    ),
    "pause-server": _Kind("pause_server", _pause, _write_pause, "every:7s:1s"),
}
"""By the name that the line has for it."""

FAULTS = tuple(_KINDS)
"""Every kind of fault, by that name."""
