"""What a server says that it may use: that it adds up, names its bounds, and is not passed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.server.pki import write_tokens
from tests.server.test_main import run, running

from swaptier_server.config import ServerConfig
from swaptier_server.memory import machine_bytes, memory_lines, memory_parts, share_line, text
from swaptier_server.tier.slot_table import ROW_BYTES

SMALL = {"pool_limit": 2 << 20, "device_limit": 8 << 20, "slots_max": 1 << 17}
SLACK_BYTES = 2 << 20
"""What the allocator takes at once."""
FILL = Path(__file__).parent / "fill.py"


def config(**fields: object) -> ServerConfig:
    return ServerConfig.model_validate(fields)


def test_a_check_of_the_configuration_adds_everything_up(tmp_path: Path) -> None:
    tokens = write_tokens(tmp_path / "tokens", "alice", "bob")
    flags = ("--listen", "127.0.0.1:0", "--metrics", "off", "--tokens", str(tokens), "--pool-limit", "1GiB")
    result = run("check-config", *flags)
    assert result.returncode == 0, result.stderr
    summed = r"^memory: this server may use up to [0-9.]+ GiB; one tenant of 2 up to [0-9.]+ GiB of it$"
    assert re.search(summed, result.stdout, re.MULTILINE)
    assert (
        "shares: reserved for each of 2 tenants: 16 areas, 4194304 slots, 268435456 bytes of the pool" in result.stdout
    )
    for line in ("1.0 GiB  pool, 768 MiB for one tenant", "1.1 GiB  devices in memory, 262144 pages"):
        assert line in result.stdout


def test_the_sum_is_that_of_its_parts_and_each_flag_moves_it() -> None:
    def total(**fields: object) -> int:
        return sum(part.most for part in memory_parts(config(**fields), 1, 100))

    before = total()
    assert text(before) in next(iter(memory_lines(config(), 1, 100)))
    for fields in ({"pool_limit": 1 << 30}, {"device_limit": 4 << 30}, {"slots_max": 1 << 28}, {"areas_max": 1024}):
        assert total(**fields) > before, fields
    assert total(batch_slots_max=1) < before
    assert total(slots_max=(16 << 20) + 1000) - before == 1000 * (ROW_BYTES + 1)


def test_a_tenant_alone_can_have_less_than_all() -> None:
    """Its share and all that is lent: three quarters on a server of two."""
    pool = next(part for part in memory_parts(config(), 2, 100) if part.what == "pool")
    assert (pool.most, pool.tenant_most) == (64 << 20, 48 << 20)


def test_more_tenants_than_there_is_something_for_have_no_share_of_it() -> None:
    assert share_line(config(areas_max=2), 3).endswith("tenants to have a share of areas")
    assert share_line(config(), 2).endswith("128 calls")


def test_what_the_machine_has_is_what_its_container_has(tmp_path: Path) -> None:
    cgroup, info = tmp_path / "memory.max", tmp_path / "meminfo"
    info.write_text("MemTotal:        2048 kB\nMemFree: 1 kB\n")
    assert machine_bytes(cgroup, info) == 2 << 20
    cgroup.write_text("max\n")
    assert machine_bytes(cgroup, info) == 2 << 20
    cgroup.write_text("1048576\n")
    assert machine_bytes(cgroup, info) == 1 << 20
    assert machine_bytes(tmp_path / "none", tmp_path / "none") is None


def test_more_than_there_is_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swaptier_server.memory.machine_bytes", lambda: 1 << 20)
    assert list(memory_lines(config(), 1, 100))[-1] == (
        "memory: that is more than the 1 MiB that this machine, or its container, has"
    )


def test_a_server_says_at_its_start_what_it_may_use_and_that_there_is_less() -> None:
    """4 Gi slots of 36 bytes are more than a machine of these tests has."""
    with running("--slots-max", str(1 << 32)) as server:
        summed = re.fullmatch(r"(14[5-9])\.[0-9] GiB", str(server.wait_for_log("serving")["memory_max"]))
        assert summed is not None
        warning = server.wait_for_log("memory_may_not_suffice")
    assert warning["memory_max"] == summed[0]
    assert "check-config" in str(warning["advice"])


def test_a_tier_that_is_driven_to_its_bounds_takes_no_more_than_was_stated() -> None:
    """Resident memory of a process of its own, for each kind; and what is stated is not many times what is used."""
    done = subprocess.run(
        [sys.executable, str(FILL), json.dumps(SMALL)], capture_output=True, text=True, check=True, timeout=60
    )
    for kind, (grown, stated) in json.loads(done.stdout).items():
        assert stated / 8 < grown < stated + SLACK_BYTES, f"{kind}: {grown} of {stated} bytes"
