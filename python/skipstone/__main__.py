"""`python -m skipstone`: the command line without the installed script."""
from __future__ import annotations

from .cli.main import main

main()
