"""``python -m windlass`` is the ``windlass`` command."""

import os
import sys

if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
    del sys.path[0]  # -m put the current folder first, where a file of the user's replaces what is installed

from windlass.cli.main import main

if __name__ == "__main__":
    main()
