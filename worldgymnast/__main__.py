"""`python -m worldgymnast`."""

import sys

from worldgymnast.cli import script

if __name__ == "__main__":
    sys.exit(script())
