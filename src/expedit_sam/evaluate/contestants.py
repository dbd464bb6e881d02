"""What is compared: one network at several settings, and classical methods beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from expedit_sam.evaluate.prompts import EVERYTHING, KINDS
from expedit_sam.everything import SamAutomaticMaskGenerator
from expedit_sam.everything.rle import Rle
from expedit_sam.hourglass.settings import Hourglass
from expedit_sam.model.expedite import expedite
from expedit_sam.model.sam import Sam
from expedit_sam.predictor import SamPredictor
from expedit_sam.weights.digest import weights_digest


@dataclass(frozen=True)
class Answer:
    """What P prompts gave.

    Attributes:
        candidates: PxMxHxW boolean masks.
        scores: PxM, how good the method itself expects them to be.
        logits: Px1x4hx4w low-res logits of the best, for a further round; None for a method
            that knows no rounds.
    """

    candidates: np.ndarray
    scores: np.ndarray
    logits: Tensor | None = None

    @property
    def chosen(self) -> np.ndarray:
        """PxHxW, of each prompt the mask that the method thinks best."""
        return self.candidates[np.arange(len(self.scores)), self.scores.argmax(axis=1)]


@dataclass(frozen=True)
class Prompts:
    """P prompts of one kind, in pixels of the image.

    Attributes:
        points: PxNx2 (x, y).
        labels: PxN, 1 foreground and 0 background.
        boxes: Px4 (x0, y0, x1, y1).
        before: the answer to all points but the last, in a further round.
    """

    points: np.ndarray | None = None
    labels: np.ndarray | None = None
    boxes: np.ndarray | None = None
    before: Answer | None = None


class Contestant(Protocol):
    """A method that turns prompts into masks.

    Attributes:
        name: what it is called in the results.
        kinds: the prompts it can take.
    """

    name: str
    kinds: tuple[str, ...]

    def identity(self, kinds: Sequence[str]) -> dict[str, Any]:
        """What its results for these prompts depend on beside code, as json can hold it."""

    def set_image(self, image: np.ndarray) -> None:
        """Prepare for prompts on an HxWx3 image."""

    def ask(self, prompts: Prompts) -> Answer:
        """Masks for P prompts on that image."""

    def everything(self, image: np.ndarray) -> list[Rle]:
        """All masks of an HxWx3 image, without ``set_image`` before it."""


class Network:
    """One network at one setting; several of them may share it.

    Arguments:
        name: what the setting is called in the results.
        sam: the network; its speed changes as this is used.
        setting: None is the exact network.
        digest: of its weights.
        everything: arguments of ``SamAutomaticMaskGenerator``.
    """

    kinds: tuple[str, ...] = KINDS

    def __init__(
        self,
        name: str,
        sam: Sam,
        setting: Hourglass | None,
        digest: str,
        everything: Mapping[str, Any],
    ) -> None:
        self.name, self.sam, self.setting = name, sam, setting
        self._digest, self._everything = digest, dict(everything)
        self._predictor = SamPredictor(sam)
        self._generator = SamAutomaticMaskGenerator(sam, output_mode="coco_rle", **everything)

    def identity(self, kinds: Sequence[str]) -> dict[str, Any]:
        return {
            "weights": self._digest,
            "setting": None if self.setting is None else asdict(self.setting),
            "everything": self._everything if EVERYTHING in kinds else None,
            "device": str(self.sam.device),
            "threads": torch.get_num_threads(),
        }

    def set_image(self, image: np.ndarray) -> None:
        expedite(self.sam, self.setting)
        self._predictor.set_image(image)
        if self.sam.device.type == "cuda":
            torch.cuda.synchronize(self.sam.device)

    def ask(self, prompts: Prompts) -> Answer:
        # A single click may mean a thing, its part or the whole; any more says which.
        ambiguous = prompts.points is not None and prompts.points.shape[1] == 1
        labels = prompts.labels
        masks, scores, logits = self._predictor.predict_torch(
            self._scaled(prompts.points),
            None if labels is None else torch.as_tensor(labels, device=self.sam.device),
            self._scaled(prompts.boxes),
            None if prompts.before is None else prompts.before.logits,
            multimask_output=ambiguous,
        )
        best = logits[torch.arange(len(logits)), scores.argmax(dim=1)][:, None]
        return Answer(masks.cpu().numpy(), scores.cpu().numpy(), best)

    def everything(self, image: np.ndarray) -> list[Rle]:
        expedite(self.sam, self.setting)
        return [record["segmentation"] for record in self._generator.generate(image)]

    def _scaled(self, places: np.ndarray | None) -> Tensor | None:
        """PxNx2 points or Px4 boxes in the network's pixels."""
        if places is None:
            return None
        pairs = places.reshape(-1, 2)
        scaled = self._predictor.transform.apply_coords(pairs, self._predictor.original_size)
        return torch.as_tensor(
            scaled.reshape(places.shape), dtype=torch.float, device=self.sam.device
        )


def networks_at(
    sam: Sam, settings: Mapping[str, Hourglass | None], everything: Mapping[str, Any]
) -> list[Network]:
    """One network at several settings, by their names."""
    digest = weights_digest(sam)
    return [Network(name, sam, setting, digest, everything) for name, setting in settings.items()]
