"""``expedit-sam`` with a network of a few thousand parameters as ``vit_s``, as a process.

python -m tests.batch.tiny_program batch photos --checkpoint random
"""

from __future__ import annotations

from expedit_sam.cli import main
from expedit_sam.model.architectures import ARCHITECTURES
from tests.conftest import TINY

if __name__ == "__main__":
    ARCHITECTURES["vit_s"] = TINY
    main()
