"""`python -m salhub.cli` is the `salhub` command."""

from salhub.cli import main

main()
