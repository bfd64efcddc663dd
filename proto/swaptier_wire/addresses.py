"""Where a server listens or is found: HOST:PORT, [IPV6]:PORT or unix:PATH. No other module takes such text apart.

Pure.
"""

import ipaddress
from typing import Self

PORT_MAX = 65535
UNIX_PATH_BYTES_MAX = 107
"""sockaddr_un.sun_path without its end."""


class Address(str):
    """A checked address: made by `parse`. Port 0 lets the system choose."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str, *, allows_unix: bool = True) -> Self:
        """Return *text* as an address.

        Raises:
            ValueError: it is none; one line says what was expected and what was given.
        """
        if any("\ud800" <= character <= "\udfff" or character == "\0" for character in text):
            raise ValueError(f"an address is text, got {text!r}")
        if allows_unix and text.startswith("unix:"):
            size = len(text.removeprefix("unix:").encode())
            if not 1 <= size <= UNIX_PATH_BYTES_MAX:
                raise ValueError(f"the path of a unix socket has 1 to {UNIX_PATH_BYTES_MAX} bytes, this one {size}")
            return cls(text)
        scheme, is_url, rest = text.partition("://")
        if is_url:
            raise ValueError(f"{text!r} is a URL: leave {scheme}:// out, as in {rest.partition('/')[0]}")
        host, _, port = text.rpartition(":")
        if not host or not port.isascii() or not port.isdecimal() or len(port) > 5 or int(port) > PORT_MAX:
            or_path = ", or unix:PATH" if allows_unix else ""
            raise ValueError(f"expected HOST:PORT with a port of 0 to {PORT_MAX}{or_path}, got {text!r}")
        if ":" in host and not (host.startswith("[") and host.endswith("]")):
            raise ValueError(f"an IPv6 address stands in brackets, as in [::1]:50051, got {text!r}")
        try:
            host.encode("idna")
        except UnicodeError as error:
            raise ValueError(f"no host can have the name {host!r}") from error
        return cls(text)

    @property
    def is_unix(self) -> bool:
        """A socket in the file system, not a port."""
        return self.startswith("unix:")

    @property
    def path(self) -> str:
        """Of a unix socket."""
        assert self.is_unix
        return self.removeprefix("unix:")

    @property
    def host(self) -> str:
        """Name or number, without brackets."""
        assert not self.is_unix
        return self.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """0 to 65535; 0 for any free one."""
        assert not self.is_unix
        return int(self.rpartition(":")[2])

    @property
    def is_local(self) -> bool:
        """Only this machine can connect: a unix socket or a loopback address."""
        if self.is_unix or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name: it may resolve to anything
            return False

    def with_port(self, port: int) -> Self:
        """Return this address with the *port* that was really bound."""
        return self if self.is_unix else type(self)(f"{self.rpartition(':')[0]}:{port}")
