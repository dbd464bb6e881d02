"""The losses of a prompt's masks and of their predicted IoU (SAM, appendix A)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# A target below 100 low-res pixels (six tokens) is for the last of three masks, one of 1000 or more
# for the first; another mask is trained on it only where its loss is lower by WRONG_SIZE.
MASK_SIZES = (1000, 100)
WRONG_SIZE = 0.4
# The loss of pixels is averaged over so many times the area of target and mask together, at most an
# image: averaged over the whole image, small regions would hardly count.
SURROUNDINGS = 3


def mask_losses(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """NxMxL logits and NxKxL targets to NxMxK losses and IoU: 2.5 focal + dice + 0.25 entropy.

    All are linear in the target, so each is a product of matrices.
    """
    chance = logits.sigmoid()
    missed, spilt = F.softplus(-logits), F.softplus(logits)
    within = 2.5 * (1 - chance) ** 2 * missed + 0.25 * missed
    beyond = 2.5 * chance**2 * spilt + 0.25 * spilt
    areas = targets.sum(dim=-1)[:, None]
    across = targets.transpose(1, 2)
    both = chance.sum(dim=-1, keepdim=True) + areas
    counted = (SURROUNDINGS * both.detach()).clamp(1, logits.shape[-1])
    entropy = (beyond.sum(dim=-1, keepdim=True) + (within - beyond) @ across) / counted
    dice = 1 - (2 * chance @ across + 1) / (both + 1)
    with torch.no_grad():
        masks = (logits > 0).to(targets.dtype)
        common = masks @ across
        iou = common / (masks.sum(dim=-1, keepdim=True) + areas - common).clamp_min(1)
    return entropy + dice, iou


def own_mask(areas: Tensor) -> Tensor:
    """Which of three masks is for targets of these areas."""
    return torch.stack([areas < size for size in MASK_SIZES]).sum(dim=0)


def prompt_loss(
    logits: Tensor, predicted: Tensor, targets: Tensor, chances: Tensor, clear: Tensor
) -> tuple[Tensor, Tensor]:
    """Loss of four masks for each prompt, and the likely target's best-of-three IoU.

    The single mask (index 0) is for clear prompts (boxes, several clicks) and learns less from
    ambiguous ones. Of the three others the best learns, and what is best depends on size too: else
    one mask serves all small and middling regions, and is too large for the small ones.

    Arguments:
        logits, predicted: Nx4xhxw and Nx4.
        targets, chances: NxKxhxw and NxK: what may be meant, and how likely.
        clear: N.
    """
    targets = targets.flatten(2).to(torch.float32)
    losses, reached = mask_losses(logits.float().flatten(2), targets)
    three = losses[:, 1:]
    own = own_mask(targets.sum(dim=-1))[:, None]
    distance = (torch.arange(3, device=logits.device)[None, :, None] - own).abs()
    best = (three.detach() + WRONG_SIZE * distance).argmin(dim=1, keepdim=True)
    learnt = three.gather(1, best)[:, 0] + 0.005 * three.mean(dim=1)
    learnt = learnt + torch.where(clear, 1.0, 0.3)[:, None] * losses[:, 0]
    loss = (chances * learnt).sum(dim=-1).mean()
    expected = (chances[:, None] * reached).sum(dim=-1)
    loss = loss + F.mse_loss(predicted.float(), expected)
    return loss, (chances * reached[:, 1:].amax(dim=1)).sum(dim=-1).mean().detach()
