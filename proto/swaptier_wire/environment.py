"""Which variables of the environment never reach gRPC: each changes the transport or its security without a word.

Touches the environment of this process, which its children inherit. A program's `main` calls it before it loads gRPC;
a library that embeds these packages keeps its environment.
"""

import os
from typing import Final

PREFIX: Final = "GRPC_"
"""Of what gRPC reads: resolver, poller, cipher suites, proxy, fork support, experiments. A later
version reads others, so what is not known to be harmless goes."""

HARMLESS: Final = frozenset(
    {
        *("GRPC_VERBOSITY", "GRPC_TRACE", "GRPC_STACKTRACE_MINLOGLEVEL"),
        *("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "GRPC_NOT_USE_SYSTEM_SSL_ROOTS", "GRPC_SYSTEM_SSL_ROOTS_DIR"),
    }
)
"""The first say what gRPC logs; the others where roots are when a channel names none, and every channel here does."""


def withdraw_grpc_variables() -> list[str]:
    """Remove the variables from the environment; return their names, which are to be said."""
    found = sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name not in HARMLESS)
    for name in found:
        del os.environ[name]
    return found
