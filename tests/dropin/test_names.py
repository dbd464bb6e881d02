"""Every public name of the original is there, and takes what the original takes."""

from __future__ import annotations

import inspect
from importlib import import_module
from types import ModuleType

import pytest
import torch

import segment_anything
from tests.original import SUBMODULES, original_modules

MODULES = ("", *SUBMODULES)


def own_names(module: ModuleType) -> dict[str, object]:
    """What a module of the original shows of the original's own."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", getattr(value, "__name__", "")).startswith(
            "segment_anything"
        )
    }


def ours(name: str) -> ModuleType:
    return import_module(f"segment_anything.{name}".rstrip("."))


@pytest.mark.parametrize("name", MODULES)
def test_every_name_is_there(original: ModuleType, name: str) -> None:
    names = own_names(original_modules()[name])
    missing = [key for key in names if not hasattr(ours(name), key)]
    assert not missing
    assert names


def test_registry_has_the_same_entries(original: ModuleType) -> None:
    assert list(segment_anything.sam_model_registry) == list(original.sam_model_registry)
    for key, builder in original.sam_model_registry.items():
        assert segment_anything.sam_model_registry[key].__name__ == builder.__name__
    assert segment_anything.build_sam is segment_anything.build_sam_vit_h


def public_callables() -> list[tuple[str, str]]:
    """Module and dotted name of every class, public method and function of the original."""
    found = []
    for module in SUBMODULES:
        for name, value in own_names(original_modules()[module]).items():
            if getattr(value, "__module__", None) != original_modules()[module].__name__:
                continue
            if inspect.isfunction(value):
                found.append((module, name))
            elif inspect.isclass(value):
                methods = [
                    key
                    for key, member in vars(value).items()
                    if key == "__init__"
                    or (not key.startswith("_") and callable(member))
                    or isinstance(member, staticmethod)
                ]
                found += [(module, f"{name}.{method}") for method in methods]
    return found


def look_up(module: ModuleType, dotted: str) -> object:
    value: object = module
    for part in dotted.split("."):
        value = getattr(value, part)
    return value


def plain(default: object) -> object:
    """Defaults that can be compared: to a caller, lists and tuples of the same values are equal."""
    if isinstance(default, list):
        return tuple(default)
    if isinstance(default, type) and issubclass(default, torch.nn.Module):
        return default.__name__
    return default


def test_every_signature_fits(original: ModuleType) -> None:
    compared = 0
    for module, dotted in public_callables():
        theirs = inspect.signature(look_up(original_modules()[module], dotted)).parameters.values()
        mine = inspect.signature(look_up(ours(module), dotted)).parameters
        names = [p.name for p in theirs]
        assert list(mine)[: len(names)] == names, f"{module}: {dotted}"
        for parameter in theirs:
            own = mine[parameter.name]
            assert own.kind == parameter.kind, f"{module}: {dotted}({parameter.name})"
            assert plain(own.default) == plain(parameter.default), f"{module}: {dotted}"
        compared += 1
    assert compared > 60


def test_attributes_of_instances_are_there(pair: tuple[torch.nn.Module, torch.nn.Module]) -> None:
    theirs, mine = pair
    for other, own in zip(theirs.modules(), mine.modules(), strict=True):
        names = {name for name in vars(other) if not name.startswith("_")} - {"training"}
        assert all(hasattr(own, name) for name in names), type(other)
