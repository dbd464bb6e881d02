"""What the package needs beyond its dependencies, for some of its commands."""

from __future__ import annotations

from importlib.util import find_spec

from expedit_sam.errors import InputError


def require(what: str, extra: str, *modules: str) -> None:
    """Raise ``InputError`` where one of the modules is missing that an extra brings."""
    for module in modules:
        if find_spec(module) is None:
            raise InputError(f"{what} needs {module}: pip install 'expedit-sam[{extra}]'")
