from __future__ import annotations

import os
import subprocess
import sys

import pytest

# New pages that twenty blocks of 40 MB take, one after the other; by itself glibc returns each.
PAGES = """
import resource
from expedit_sam.allocator import keep_freed_memory
keep_freed_memory()
def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
block = b"x" * (40 << 20)
del block
before = pages()
for _ in range(20):
    block = b"x" * (40 << 20)
    del block
print(pages() - before)
"""


def new_pages(**variables: str) -> int:
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    own.pop("GLIBC_TUNABLES", None)
    done = subprocess.run(
        [sys.executable, "-c", PAGES], env=own | variables, capture_output=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(
    not hasattr(os, "confstr") or "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""),
    reason="needs glibc",
)
def test_freed_memory_is_used_again_unless_glibc_is_told_something_else() -> None:
    assert new_pages() < 1000
    assert new_pages(MALLOC_PERTURB_="0") > 10_000
