"""The hourglass in the words of its published code: what those arguments mean here."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from types import MappingProxyType
from typing import Any

from expedit_sam.hourglass.settings import Hourglass

DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "hourglass_clustering_location": -1,
        "hourglass_num_cluster": 100,
        "hourglass_cluster_iters": 5,
        "hourglass_temperture": 0.01,
        "hourglass_cluster_window_size": 5,
        "hourglass_reconstruction_k": 20,
    }
)


def in_published_names(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by their published names: ``hourglass_temperature`` becomes ``..._temperture``.

    Raises:
        TypeError: there is no such argument, or the temperature is given in both spellings.
    """
    renamed = dict(arguments)
    if "hourglass_temperature" in renamed:
        if "hourglass_temperture" in renamed:
            raise TypeError("pass one of hourglass_temperature and hourglass_temperture, not both")
        renamed["hourglass_temperture"] = renamed.pop("hourglass_temperature")
    if unknown := sorted(renamed.keys() - DEFAULTS.keys()):
        raise TypeError(f"no argument is called {unknown[0]!r}: choose from {', '.join(DEFAULTS)}")
    return renamed


def published_setting(arguments: Mapping[str, Any]) -> Hourglass | None:
    """The published method with these arguments: fixed temperature, clusters that all count as one.

    Arguments:
        arguments: all of ``DEFAULTS``, by name.

    Returns:
        the setting; None where the location is negative, which switches the method off.

    Raises:
        ValueError: a value is out of its range.
    """
    location = arguments["hourglass_clustering_location"]
    if isinstance(location, Real) and location < 0:
        return None
    return Hourglass(
        location=location,
        clusters=arguments["hourglass_num_cluster"],
        iterations=arguments["hourglass_cluster_iters"],
        temperature=arguments["hourglass_temperture"],
        neighborhood=arguments["hourglass_cluster_window_size"],
        reconstruction_neighbors=arguments["hourglass_reconstruction_k"],
        scale_free=False,
        size_aware=False,
        keep_detail=False,
        mean_values=False,
    )
