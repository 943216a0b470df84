"""`python -m skipstone.cli`: the command line without the installed script."""
from __future__ import annotations

from .main import main

main()
