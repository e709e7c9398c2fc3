"""`python -m facex`."""

from facex.cli import main

main()
