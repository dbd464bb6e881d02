"""``python -m expedit_sam`` is ``expedit-sam``."""

from expedit_sam.cli import main

main()
