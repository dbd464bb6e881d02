"""The README says what is true."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_ci_runs_the_readmes_test_command_and_nothing_else() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if not re.match(r"#|set |cd |$", line)]
    assert commands == re.findall(r"^.*tests/check\.py$", README, flags=re.MULTILINE)


def test_the_files_it_names_are_there() -> None:
    for name in re.findall(r"\]\(([^):#]+)\)", README):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"(?:docs/images|scripts)/[\w./]+\w", README):
        assert (ROOT / name).exists(), name


def test_each_command_it_shows_exists() -> None:
    from expedit_sam.cli.commands import app

    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    commands |= {group.name for group in app.registered_groups}
    assert set(re.findall(r"^expedit-sam (\w+)", README, flags=re.MULTILINE)) <= commands
