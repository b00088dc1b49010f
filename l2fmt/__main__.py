"""The command line, for `python -m l2fmt`."""

from l2fmt.cli import main

main()
