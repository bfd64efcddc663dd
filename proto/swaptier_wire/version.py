"""Which version of swaptier is installed. Touches the metadata of installed distributions."""

from importlib.metadata import PackageNotFoundError, version


def program_version() -> str:
    """Return the installed version, or "unknown" in a bare checkout."""
    try:
        return version("swaptier")
    except PackageNotFoundError:
        return "unknown"
