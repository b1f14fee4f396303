"""`python -m shoptalk` is `shoptalk`."""

from shoptalk.cli.app import main

main()
