"""`python -m swaptier_loadgen` and the `swaptier-loadgen` script."""

from swaptier_wire.descriptors import raise_limit
from swaptier_wire.environment import withdraw_grpc_variables


def main() -> None:
    """Run the command line of this process and exit."""
    raise_limit()  # each host takes some
    withdrawn = withdraw_grpc_variables()
    from swaptier_loadgen.cli import app  # loads gRPC

    app.main(withdrawn)


if __name__ == "__main__":
    main()
