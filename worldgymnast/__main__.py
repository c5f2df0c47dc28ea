"""`python -m worldgymnast`."""

import sys

from worldgymnast.cli import main

if __name__ == "__main__":
    sys.exit(main())
