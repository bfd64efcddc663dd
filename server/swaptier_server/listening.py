"""Can this address be listened on, and if not, why not: asked with plain sockets before gRPC is.

Touches sockets and the file system. gRPC says only "failed to bind", counts a name with two addresses as bound
when one of them is, and takes a unix socket away from the server that listens there.
"""

import errno
import os
import socket
import stat
from pathlib import Path

from swaptier_server.errors import ConfigError
from swaptier_wire.addresses import Address
from swaptier_wire.process.endings import NO_RESOURCES

_UNAVAILABLE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""This machine does not have the address; a name may have another."""


def check_can_listen(flag: str, address: Address) -> None:
    """Refuse an address that cannot be had.

    Raises:
        ConfigError: one line that names *flag*, the address and what to do.
        OSError: no descriptor is left.
    """
    try:
        if address.is_unix:
            _check_path(Path(address.path))
        else:
            _check_port(address)
    except OSError as error:
        raise ConfigError(explain(flag, address, error)) from error


def explain(flag: str, address: Address, error: OSError) -> str:
    """Return why *address* cannot be listened on, and what to do.

    Raises:
        OSError: *error*, where no descriptor is left: the address is not to blame.
    """
    if error.errno in NO_RESOURCES:
        raise error
    start = f"{flag}: cannot listen on {address}"
    if error.errno == errno.EADDRINUSE:
        advice = "stop the server that has it, or choose another" + (
            "" if address.is_unix else " (port 0: any free one)"
        )
        return f"{start}: it is in use; {advice}"
    if isinstance(error, socket.gaierror):
        return f"{start}: the host is unknown ({error.strerror})"
    if error.errno == errno.EACCES:
        advice = "choose a folder you may write to" if address.is_unix else "choose a port of 1024 or higher"
        return f"{start}: not permitted; {advice}"
    return f"{start}: {os.strerror(error.errno) if error.errno else error}"


def _check_port(address: Address) -> None:
    infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    failures = []
    for family, kind, protocol, _, where in infos:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(where)
        except OSError as error:
            if error.errno not in _UNAVAILABLE:
                raise
            failures.append(error)
    if len(failures) == len(infos):
        raise failures[0]


def _check_path(path: Path) -> None:
    if not path.exists():
        if not path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return  # left behind by a server that was killed
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
