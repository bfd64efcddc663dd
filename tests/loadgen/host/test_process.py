"""What a host process does when nothing moves any more."""

import asyncio
import os
from typing import NoReturn

import pytest

from swaptier_loadgen.host import process as host_process
from swaptier_loadgen.host.report import HostReport


class Unprintable:
    """As the task of a coroutine of grpc's, which has no line numbers."""

    def print_stack(self, **_: object) -> None:
        """Fail.

        Raises:
            TypeError: always.
        """
        raise TypeError("unsupported operand")


class HangingHost:
    """Checks no page."""

    is_running = False

    def report(self) -> HostReport:
        """The same as ever."""
        return HostReport()


class Exited(Exception):
    """The process would be gone."""


async def test_a_host_that_hangs_ends_although_a_task_cannot_be_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The watchdog once died of it, and with it the reports."""

    def leave(status: int) -> NoReturn:
        assert status == host_process.STALLED_STATUS
        raise Exited

    monkeypatch.setattr(host_process, "REPORT_SECONDS", 0.001)  # 0 would be a clock that stands still
    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(asyncio, "all_tasks", lambda: {Unprintable()})
    with pytest.raises(Exited):
        await host_process._report_often(HangingHost(), [], 0.0)  # type: ignore[arg-type]  # all that it is asked
    assert "no page was checked" in capsys.readouterr().err
