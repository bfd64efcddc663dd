"""A task of a world: a path, the host it runs on, and where it stands.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import GeneratorType

from swaptier_client.mm import lost_reply
from swaptier_client.mm.effects import Batch, Path, Request, RequestReply
from swaptier_loadgen.explore.network import WorldHost
from swaptier_loadgen.lockstep.driver import Task
from swaptier_wire.types import LoadReply, SlotReply

REPEATING_MODULE = lost_reply.__name__
"""Its functions ask again until an outcome is known; their lines say nothing of what a path does."""


class Cpu(Task):
    """A task of a world."""

    def __init__(self, name: str, path: Path[object], there: WorldHost | None, alike: str, *, is_daemon: bool) -> None:
        super().__init__(name, path)
        self.there = there
        """The host it runs on; None for what happens in the tier or on the network."""
        self.alike = alike
        """Tasks of one class run one program: it does not matter which is which. Empty: it is the only one."""
        self.is_daemon = is_daemon
        """The world may end while it sleeps."""

    @property
    def has_begun(self) -> bool:
        """It has taken a step and has not ended."""
        return self.at is not None

    def frames(self) -> Iterator[GeneratorType[object, object, object]]:
        """Yield the suspended generators, outermost first; a path that another drives step by step counts too."""
        path: object = self.path
        while isinstance(path, GeneratorType):
            yield path
            frame = path.gi_frame
            path = path.gi_yieldfrom or (frame.f_locals.get("path") if frame is not None else None)

    def frames_locals(self) -> Iterator[dict[str, object]]:
        """Yield the local variables of each suspended frame, outermost first."""
        for path in self.frames():
            if path.gi_frame is not None:
                yield path.gi_frame.f_locals

    def on_its_way(self) -> list[tuple[Request, RequestReply | BaseException]]:
        """Return the requests that are answered and whose replies the task has not taken yet, with these."""
        if isinstance(self.at, Batch) and isinstance(self.reply, list):
            return list(zip(self.at.requests, self.reply, strict=True))
        if isinstance(self.at, Request) and isinstance(self.reply, LoadReply | SlotReply):
            return [(self.at, self.reply)]
        return []

    def where(self) -> str:
        """Return the innermost line outside REPEATING_MODULE where it stands, "module:function:line"; "" at its end."""
        where = ""
        for path in self.frames():
            if path.gi_frame is None:
                continue
            module = path.gi_frame.f_globals["__name__"]
            if module != REPEATING_MODULE:
                where = f"{module.rpartition('.')[2]}:{path.gi_frame.f_code.co_name}:{path.gi_frame.f_lineno}"
        return where
