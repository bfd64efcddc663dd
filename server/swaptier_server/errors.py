"""What the operator of a server got wrong. Imports nothing, so that every room may raise it."""


class ConfigError(Exception):
    """The configuration, or a file or an address that it names, cannot be used.

    The message is one line and names the flag or variable.
    """
