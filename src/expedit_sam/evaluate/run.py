"""The evaluation: every contestant on every image, kept as it goes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import expedit_sam
from expedit_sam.evaluate.contestants import Contestant, Network
from expedit_sam.evaluate.datasets import Example
from expedit_sam.evaluate.records import Figures, Records
from expedit_sam.evaluate.trial import Trial

Progress = Callable[[int, int], None]

# Folders of the package that figures depend on.
_CODE = (".", "model", "hourglass", "everything", "evaluate")


def evaluate(
    networks: Sequence[Network],
    baselines: Sequence[Contestant],
    examples: Sequence[Example],
    kinds: Sequence[str],
    folder: Path,
    *,
    seed: int = 0,
    regions: int | None = None,
    on_progress: Progress = lambda done, total: None,
) -> dict[str, list[Figures]]:
    """Measure every contestant on every image, going on where an earlier run has stopped.

    Arguments:
        networks: settings of one network, the first of them the exact one.
        baselines: contestants without a network.
        examples: the images.
        kinds: some of ``prompts.KINDS``.
        folder: where the records go.
        seed: of jittered boxes and of the choice of regions.
        regions: how many regions of an image at most; None is all.
        on_progress: called with (done, total) after each image of each contestant.

    Returns:
        by contestant, the figures of each image.

    Raises:
        InputError: an image or its regions cannot be read.
    """
    contestants = [*networks, *baselines]
    common = {"seed": seed, "regions": regions, "code": _code_digest(), "torch": torch.__version__}
    records = {}
    for contestant in contestants:
        own_kinds = [kind for kind in kinds if kind in contestant.kinds]
        identity = {"contestant": contestant.identity(own_kinds), "kinds": own_kinds, **common}
        records[contestant.name] = Records(folder, contestant.name, identity)

    warm: set[str] = set()
    done, total = 0, len(examples) * len(contestants)
    for example in examples:
        missing = [c for c in contestants if example.key not in records[c.name].images]
        done += len(contestants) - len(missing)
        on_progress(done, total)
        if not missing:
            continue
        image, truth = example.read(regions, seed)
        trial = Trial(image, truth, kinds, example.random(seed))
        exact = None
        # The exact network runs again: the others need its masks, which records do not hold.
        if any(isinstance(contestant, Network) for contestant in missing):
            missing = [networks[0], *(c for c in missing if c is not networks[0])]
        for contestant in missing:
            if contestant.name not in warm:
                contestant.set_image(image)  # a first time takes longer, and is not counted
                warm.add(contestant.name)
            outcome = trial.run(contestant, exact if isinstance(contestant, Network) else None)
            if contestant is networks[0]:
                exact = outcome
            if example.key not in records[contestant.name].images:
                records[contestant.name].add(example.key, outcome.figures)
                done += 1
            on_progress(done, total)
    return {
        contestant.name: [records[contestant.name].images[example.key] for example in examples]
        for contestant in contestants
    }


def _code_digest() -> str:
    """A hash of the package's code: after a change all is measured anew."""
    package, digest = Path(expedit_sam.__file__).parent, hashlib.sha256()
    for file in sorted(file for folder in _CODE for file in (package / folder).glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
