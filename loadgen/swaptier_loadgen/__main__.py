"""`python -m swaptier_loadgen` and the `swaptier-loadgen` script."""

from swaptier_loadgen.cli.app import app


def main() -> None:
    """Run the command line; exits with the status `cli.py` documents."""
    app()


if __name__ == "__main__":
    main()
