"""``python -m bertpress``: the command line."""

from bertpress.cli import main

main()
