"""The evaluation: every contender on every image, kept as it goes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import expedit_sam
from expedit_sam.evaluate.contenders import Contender, Network
from expedit_sam.evaluate.datasets import Example
from expedit_sam.evaluate.records import Figures, Records
from expedit_sam.evaluate.trial import Trial

Progress = Callable[[int, int], None]

# Folders of the package that figures depend on.
_CODE = (".", "model", "hourglass", "everything", "evaluate")


def evaluate(
    networks: Sequence[Network],
    baselines: Sequence[Contender],
    examples: Sequence[Example],
    kinds: Sequence[str],
    folder: Path,
    *,
    seed: int = 0,
    regions: int | None = None,
    on_progress: Progress = lambda done, total: None,
) -> dict[str, list[Figures]]:
    """Measure every contender on every image, going on where an earlier run has stopped.

    Arguments:
        networks: settings of one network, the first of them the exact one.
        baselines: contenders without a network.
        examples: the images.
        kinds: some of ``prompts.KINDS``.
        folder: where the records go.
        seed: of jittered boxes and of the choice of regions.
        regions: how many regions of an image at most; None is all.
        on_progress: called with (done, total) after each image of each contender.

    Returns:
        by contender, the figures of each image.

    Raises:
        InputError: an image or its regions cannot be read.
    """
    contenders = [*networks, *baselines]
    common = {"seed": seed, "regions": regions, "code": _code_digest(), "torch": torch.__version__}
    records = {}
    for contender in contenders:
        own_kinds = [kind for kind in kinds if kind in contender.kinds]
        identity = {"contender": contender.identity(own_kinds), "kinds": own_kinds, **common}
        records[contender.name] = Records(folder, contender.name, identity)

    warm: set[str] = set()
    done, total = 0, len(examples) * len(contenders)
    for example in examples:
        missing = [c for c in contenders if example.key not in records[c.name].images]
        done += len(contenders) - len(missing)
        on_progress(done, total)
        if not missing:
            continue
        image, truth = example.read(regions, seed)
        trial = Trial(image, truth, kinds, example.random(seed))
        exact = None
        # The exact network runs again: the others need its masks, which records do not hold.
        if any(isinstance(contender, Network) for contender in missing):
            missing = [networks[0], *(c for c in missing if c is not networks[0])]
        for contender in missing:
            if contender.name not in warm:
                contender.set_image(image)  # a first time takes longer, and is not counted
                warm.add(contender.name)
            outcome = trial.run(contender, exact if isinstance(contender, Network) else None)
            if contender is networks[0]:
                exact = outcome
            if example.key not in records[contender.name].images:
                records[contender.name].add(example.key, outcome.figures)
                done += 1
            on_progress(done, total)
    return {
        contender.name: [records[contender.name].images[example.key] for example in examples]
        for contender in contenders
    }


def _code_digest() -> str:
    """A hash of the package's code: after a change all is measured anew."""
    package, digest = Path(expedit_sam.__file__).parent, hashlib.sha256()
    for file in sorted(file for folder in _CODE for file in (package / folder).glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
