"""The losses of a prompt's masks and of their predicted IoU (SAM, appendix A)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# A target below 100 low-res pixels (six tokens) is for the last of three masks, one of 1000 or more
# for the first; another mask is trained on it only where its loss is lower by WRONG_SIZE.
MASK_SIZES = (1000, 100)
WRONG_SIZE = 0.4


def mask_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """PxMxhxw logits and Pxhxw targets to PxM: 5 focal + dice + 0.5 binary cross-entropy."""
    targets = targets[:, None].expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    focal = ((1 - (-entropy).exp()) ** 2 * entropy).mean((-2, -1))
    chance = logits.sigmoid()
    overlap = (chance * targets).sum((-2, -1))
    dice = 1 - (2 * overlap + 1) / (chance.sum((-2, -1)) + targets.sum((-2, -1)) + 1)
    return 5 * focal + dice + 0.5 * entropy.mean((-2, -1))


def reached_iou(logits: Tensor, targets: Tensor) -> Tensor:
    masks, truth = logits > 0, targets[:, None] > 0
    return (masks & truth).sum((-2, -1)) / (masks | truth).sum((-2, -1)).clamp_min(1)


def own_mask(targets: Tensor) -> Tensor:
    """Pxhxw targets to P: which of three masks is for their size."""
    areas = targets.sum((-2, -1))
    return torch.stack([areas < size for size in MASK_SIZES]).sum(dim=0)


def prompt_loss(
    logits: Tensor, predicted: Tensor, targets: Tensor, clear: bool
) -> tuple[Tensor, Tensor]:
    """Loss of four masks for each prompt, and the best-of-three IoU reached (PxM to scalars).

    The single mask (index 0) is for clear prompts (boxes, several clicks) and learns less from
    ambiguous ones. Of the three others the best learns, and what is best depends on size too: else
    one mask serves all small and middling regions, and is too large for the small ones.
    """
    losses = mask_losses(logits, targets)
    reached = reached_iou(logits, targets)
    three = losses[:, 1:]
    distance = (torch.arange(3, device=logits.device) - own_mask(targets)[:, None]).abs()
    best = (three.detach() + WRONG_SIZE * distance).argmin(dim=1, keepdim=True)
    loss = (
        three.gather(1, best).mean()
        + 0.005 * three.mean()
        + (1.0 if clear else 0.3) * losses[:, 0].mean()
    )
    loss = loss + F.mse_loss(predicted, reached)
    return loss, reached[:, 1:].amax(dim=1).mean()
