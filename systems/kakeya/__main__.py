"""`python -m holdfast.systems.kakeya`."""

from holdfast.systems.kakeya.cli import main

main()
