"""What is asked of every image of a batch, and by which network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expedit_sam.everything.recommended import RECOMMENDED

if TYPE_CHECKING:
    from expedit_sam.model.sam import Sam


@dataclass(frozen=True)
class Task:
    """What every stage needs to know.

    Attributes:
        model, speed, weights: what each row says of the network; ``weights`` is a hash.
        side: of the network's square input in pixels.
        threshold: logits above it belong to a mask.
        everything: arguments of ``SamAutomaticMaskGenerator``; None where prompts are given.
        points_per_batch: prompts, or points of everything mode, decoded together.
    """

    model: str
    speed: str
    weights: str
    side: int
    threshold: float
    everything: dict[str, Any] | None
    points_per_batch: int = 64

    @classmethod
    def of(
        cls,
        sam: Sam,
        model: str = "vit_s",
        speed: str = "exact",
        everything: dict[str, Any] | None = None,
        points_per_batch: int = 64,
    ) -> Task:
        """The task for a network.

        Arguments:
            sam: the network.
            model: its architecture, which has recommended settings of everything mode.
            speed: what rows call its speed.
            everything: other settings than those; None where prompts are given.
            points_per_batch: prompts, or points of everything mode, decoded together.
        """
        from expedit_sam.weights.digest import weights_digest

        return cls(
            model=model,
            speed=speed,
            weights=weights_digest(sam),
            side=sam.image_encoder.img_size,
            threshold=sam.mask_threshold,
            everything=None if everything is None else RECOMMENDED[model] | everything,
            points_per_batch=points_per_batch,
        )
