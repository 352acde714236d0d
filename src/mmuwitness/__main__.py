"""`python -m mmuwitness`."""

from mmuwitness.cli import main

main()
