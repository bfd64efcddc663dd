"""Where to listen: addresses as they stand on a command line.

Touches nothing; pydantic validates fields of these types by `parse`.
"""

import ipaddress
from typing import Self

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

PORT_MAX = 65535
UNIX_PATH_BYTES_MAX = 107
"""sockaddr_un.sun_path without its end."""


class Address(str):
    """Where to listen: `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`. Port 0 lets the system choose."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return *text* as an address.

        Raises:
            ValueError: it is none of the forms above.
        """
        if text.startswith("unix:"):
            size = len(text.removeprefix("unix:").encode())
            if not 1 <= size <= UNIX_PATH_BYTES_MAX:
                raise ValueError(f"the path of a unix socket has 1 to {UNIX_PATH_BYTES_MAX} bytes, this one {size}")
            return cls(text)
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdecimal() or int(port) > PORT_MAX:
            raise ValueError(f"expected HOST:PORT with a port of 0 to {PORT_MAX}, or unix:PATH, got {text!r}")
        if ":" in host and not (host.startswith("[") and host.endswith("]")):
            raise ValueError(f"an IPv6 address stands in brackets, as in [::1]:50051, got {text!r}")
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
        """0 to 65535; 0 for "any free one"."""
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

    def with_port(self, port: int) -> "Address":
        """Return this address with the *port* that was really bound."""
        return self if self.is_unix else Address(f"{self.rpartition(':')[0]}:{port}")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate with `parse`."""
        return core_schema.no_info_after_validator_function(cls.parse, core_schema.str_schema())


class MetricsAddress(Address):
    """Where to serve metrics: `HOST:PORT`, or `off`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return *text* as an address or `off`.

        Raises:
            ValueError: it is neither; metrics are not served on unix sockets.
        """
        if text == "off":
            return cls(text)
        if text.startswith("unix:"):
            raise ValueError(f"metrics are served on HOST:PORT only, or off, got {text!r}")
        try:
            return super().parse(text)
        except ValueError:
            raise ValueError(f"expected HOST:PORT with a port of 0 to {PORT_MAX}, or off, got {text!r}") from None

    @property
    def is_off(self) -> bool:
        """Serve no metrics."""
        return self == "off"
