"""`python -m swaptier_loadgen` and the `swaptier-loadgen` script."""

from swaptier_loadgen.cli.app import main

if __name__ == "__main__":
    main()
