"""`python -m worldgymnast`."""

import sys

from worldgymnast.cli.main import script

if __name__ == "__main__":
    sys.exit(script())
