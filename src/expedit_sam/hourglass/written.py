"""Speed settings as people write them: ``balanced``, ``location=6,clusters=81``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from itertools import groupby
from typing import Any

from expedit_sam.errors import InputError
from expedit_sam.hourglass.published import DEFAULTS, published_setting
from expedit_sam.hourglass.settings import Hourglass, resolve

EXACT = "exact"
_PUBLISHED = "published:"


def parse_settings(texts: Iterable[str]) -> dict[str, Hourglass | None]:
    """Settings by the names that they were written with, the exact network first.

    Arguments:
        texts: each a list of presets and settings, "balanced,fast,location=6,clusters=81". A
            setting is in ``Hourglass``'s own words; with "published:" before it, what is not said
            is as in the method's published code. Two settings need a text each.

    Raises:
        InputError: a preset or a value is unknown or out of its range.
    """
    settings: dict[str, Hourglass | None] = {EXACT: None}
    for text in texts:
        for in_words, group in groupby(text.split(","), lambda part: "=" in part):
            parts = list(group)
            names = [",".join(parts)] if in_words else parts
            settings |= {name: parse_setting(name) for name in map(str.strip, names)}
    return settings


def parse_setting(text: str) -> Hourglass | None:
    """One setting: a preset's name, or its values (see ``parse_settings``).

    Raises:
        InputError: a preset or a value is unknown or out of its range.
    """
    return _explicit(text) if "=" in text else resolve(text)


def _explicit(text: str) -> Hourglass:
    known = {field.name for field in fields(Hourglass)}
    values: dict[str, Any] = {}
    for part in text.removeprefix(_PUBLISHED).split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in known:
            raise InputError(
                f"speed setting {text!r} has no {name!r}: choose one of {', '.join(sorted(known))}"
            )
        if name in values:
            raise InputError(
                f"speed setting {text!r} has {name} twice: give each setting by itself"
            )
        values[name] = _value(value, text)
    if not text.startswith(_PUBLISHED):
        return Hourglass(**values)
    published = published_setting({**DEFAULTS, "hourglass_clustering_location": 0})
    if published is None or "location" not in values:
        raise InputError(f"speed setting {text!r} needs a location: write location=6 for instance")
    return replace(published, **values)


def _value(text: str, setting: str) -> bool | int | float:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        raise InputError(
            f"speed setting {setting!r} has the value {text!r}: write a number, true or false"
        ) from None
