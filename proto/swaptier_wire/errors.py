"""The errors of the contract, split by what they say about the effect.

Pure. An error is DEFINITE when the request did not and never will take effect, INDEFINITE when it may have. Where
an outcome is unknown nothing may be assumed: a host keeps its pin and does not read the device instead.

Each class stands for one gRPC status and one `ErrorInfo.reason`; `swaptier_wire.status` holds the translation. What a
slot answers (a miss, a refusal) is not an error but an `Outcome`.
"""

from typing import ClassVar


class SwapTierError(Exception):
    """Something other than an outcome. The message says what happened, what it means, and what to do."""

    reason: ClassVar[str] = "INTERNAL"
    definite: bool = True
    """The request did not and never will take effect."""


class InvalidRequest(SwapTierError):
    """The request can never succeed as written. Nothing changed. Definite."""

    reason = "INVALID_REQUEST"


class Unauthenticated(SwapTierError):
    """The server asks who calls, and the call did not say, or not truly. Definite."""

    reason = "UNAUTHENTICATED"


class UnknownArea(SwapTierError):
    """No such area is open. Definite."""

    reason = "UNKNOWN_AREA"


class AreaExists(SwapTierError):
    """The area is open with another geometry or other options. Definite."""

    reason = "AREA_EXISTS"


class AreaNotOwned(SwapTierError):
    """The area is another client's. Definite."""

    reason = "AREA_NOT_OWNED"


class ClientReplaced(SwapTierError):
    """A newer epoch of the same client owns the area; this one must stop. Definite."""

    reason = "CLIENT_REPLACED"

    def __init__(self, message: str, *, newest_epoch: int = 0) -> None:
        super().__init__(message)
        self.newest_epoch = newest_epoch
        """Of the client, as far as the server knows; 0 where that is not said, as inside a stream."""


class LimitReached(SwapTierError):
    """A bound of the server. Nothing was applied; retry later or smaller. Definite."""

    reason = "LIMIT_REACHED"

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        """When the same request may succeed; None where waiting alone does not help."""


class Draining(SwapTierError):
    """The server is shutting down and takes no new requests. Definite."""

    reason = "DRAINING"


class UnknownMethod(SwapTierError):
    """The server has no such method: client and server differ in version. Definite."""

    reason = "UNKNOWN_METHOD"


class TierUnreachable(SwapTierError):
    """No answer came. Indefinite, unless the connection was never made."""

    reason = "UNREACHABLE"

    def __init__(self, message: str, *, definite: bool = False) -> None:
        super().__init__(message)
        self.definite = definite


class DeadlinePassed(TierUnreachable):
    """The answer did not come in time; the request may have been applied. Indefinite."""

    reason = "DEADLINE"


class ServerDefect(SwapTierError):
    """The server failed in a way its authors did not foresee; the effect is unknown. Indefinite."""

    reason = "SERVER_DEFECT"
    definite = False
