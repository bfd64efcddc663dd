"""`swaptier-server`, also `python -m swaptier_server`."""

import sys

from swaptier_server.cli import main

if __name__ == "__main__":
    sys.exit(main())
