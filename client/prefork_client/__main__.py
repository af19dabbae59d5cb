"""Runs the command line as ``python -m prefork_client``."""

import sys

from prefork_client.cli import main

if __name__ == "__main__":
    sys.exit(main())
