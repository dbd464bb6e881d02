from __future__ import annotations

import pytest

from expedit_sam import Hourglass
from expedit_sam.errors import InputError
from expedit_sam.hourglass import PRESETS
from expedit_sam.hourglass.written import parse_settings


def test_presets_after_the_exact_network() -> None:
    settings = parse_settings(["fast, balanced"])
    assert list(settings) == ["exact", "fast", "balanced"]
    assert settings == {name: PRESETS[name] for name in settings}


def test_a_setting_in_its_own_words() -> None:
    text = "location=6,temperature=10.0,size_aware=false,keep_detail=False"
    expected = Hourglass(location=6, temperature=10.0, size_aware=False, keep_detail=False)
    assert parse_settings([text]) == {"exact": None, text: expected}
    assert parse_settings(["location=0.5"])["location=0.5"] == Hourglass(location=0.5)


def test_presets_and_a_setting_in_one_list() -> None:
    settings = parse_settings(["balanced, location=6,clusters=81,fast"])
    assert list(settings) == ["exact", "balanced", "location=6,clusters=81", "fast"]
    assert settings["location=6,clusters=81"] == Hourglass(location=6, clusters=81)
    assert settings["fast"] == PRESETS["fast"]


def test_the_published_method() -> None:
    text = "published:location=6,clusters=81"
    assert parse_settings([text])[text] == Hourglass(
        location=6,
        clusters=81,
        iterations=5,
        temperature=0.01,
        reconstruction_neighbors=20,
        scale_free=False,
        size_aware=False,
        keep_detail=False,
        mean_values=False,
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("quick", "no speed setting is called 'quick'"),
        ("speed=3", "has no 'speed': choose one of clusters, "),
        ("location=6,clusters=many", "has the value 'many'"),
        ("location=6,clusters=81,location=3", "has location twice: give each setting by itself"),
        ("location=6,clusters=80", "clusters is 80; it must be a square"),
        ("published:clusters=81", "needs a location"),
        ("published:location=-1", "location is -1"),
    ],
)
def test_faults_are_one_line(text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        parse_settings([text])
    assert "\n" not in str(caught.value)
