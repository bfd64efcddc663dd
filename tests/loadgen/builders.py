"""Settings of a small race, for tests that change one or two of them."""

from typing import Any

from swaptier_loadgen.host.messages import HostSpec
from swaptier_loadgen.host.settings import HostSettings
from swaptier_loadgen.race.settings import RaceSettings


def race_settings(**changes: Any) -> RaceSettings:  # values of both records' fields
    """Return the settings of a race with *changes*: fields of a race, or of each of its hosts."""
    host = {name: changes.pop(name) for name in list(changes) if name in HostSettings.model_fields}
    return RaceSettings(host=HostSettings(**host), **changes)


SMALL_HOST = {"processes": 2, "threads": 4, "pages": 64, "resident": 16, "ops": 2000, "install_failure_rate": 0.05}


def host_spec(policy: str, **changes: Any) -> HostSpec:  # values of both records' fields
    """Return what the only host of a small race is to do, with *changes*: its own fields, or its settings."""
    own = {name: changes.pop(name) for name in list(changes) if name in HostSpec.model_fields and name != "ops"}
    settings = HostSettings(**SMALL_HOST | changes)
    names = {"target": "", "client_id": "c", "client_epoch": 1, "area": "a", "slots": 128}
    return HostSpec(**{"settings": settings, "host": 0, "policy": policy, "ops": settings.ops, **names, **own})
