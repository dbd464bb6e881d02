"""The hourglass beside token merging (ToMe, arXiv 2210.09461) at the same number of tokens.

    python benchmarks/token_merging.py bsds500/val --images 12 --regions 12

Tokens of a window are merged in pairs, by the similarity of their attention keys, until as many are
left as the hourglass has clusters. The later blocks attend over those: each is at the place of the
token it was merged into and counts as many as it holds. Before the neck every token gets back what
it was merged into. Prints the tables of ``expedit-sam evaluate``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from expedit_sam import Hourglass, build_sam
from expedit_sam.evaluate.contestants import Network, networks_at
from expedit_sam.evaluate.costs import encoder_cost
from expedit_sam.evaluate.datasets import draw_examples, find_examples
from expedit_sam.evaluate.report import summarize, tables
from expedit_sam.evaluate.run import evaluate
from expedit_sam.hourglass.written import parse_settings
from expedit_sam.model.block import clustering_window
from expedit_sam.model.image_encoder import first_tokens
from expedit_sam.model.sequence_attention import resized_table


def main() -> None:
    options = _options()
    sam = build_sam(options.model, checkpoint=options.checkpoint)
    written = [f"location={options.location},clusters={options.clusters}"]
    settings = parse_settings([*written, *(f"published:{text}" for text in written)])
    networks: list[Network] = networks_at(sam, settings, {})
    digest = networks[0].identity(())["weights"]
    setting = Hourglass(location=options.location, clusters=options.clusters)
    networks.append(TokenMerging("token merging", sam, setting, digest, {}))
    examples = draw_examples(find_examples(options.data, None), options.images, 0)
    results = evaluate(
        networks, (), examples, options.prompts, options.out, regions=options.regions
    )
    costs = {name: encoder_cost(sam.image_encoder, value) for name, value in settings.items()}
    print(tables(summarize(results, 0), costs))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="as for expedit-sam evaluate")
    parser.add_argument("--model", default="vit_s")
    parser.add_argument("--checkpoint")
    parser.add_argument("--location", type=int, default=6)
    parser.add_argument("--clusters", type=int, default=81)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--regions", type=int, default=12)
    parser.add_argument("--prompts", nargs="+", default=["click", "box"])
    parser.add_argument("--out", type=Path, default=Path("token_merging"), help="records")
    return parser.parse_args()


class TokenMerging(Network):
    """A network whose image encoder merges tokens, at an hourglass's block and number."""

    def identity(self, kinds: Sequence[str]) -> dict[str, Any]:
        return super().identity(kinds) | {"method": "token merging"}

    def set_image(self, image: np.ndarray) -> None:
        encoder = self.sam.image_encoder
        encoder.forward = partial(encode_merged, encoder, setting=self.setting)
        try:
            self._predictor.set_image(image)
        finally:
            del encoder.forward


def encode_merged(encoder: Any, pixels: Tensor, setting: Hourglass) -> Tensor:
    """One image's 1x3xHxW pixels to its embedding."""
    location = setting.block(len(encoder.blocks))
    grid = first_tokens(encoder, pixels, location)
    window = clustering_window(encoder.blocks)
    merged = Merged.of(grid[0], encoder.blocks[location], setting, window)
    for block in encoder.blocks[location:]:
        merged.run(block)
    return encoder.neck(merged.grid()[None].permute(0, 3, 1, 2))


class Merged:
    """What is left of a grid of tokens.

    Attributes:
        tokens: NxC.
        places: Nx2 row and column of each on the grid.
        sizes: N, how many tokens each stands for.
        windows: of each window, which of the N are in it.
        owners: HxW, which of the N each token of the grid was merged into.
    """

    def __init__(
        self,
        tokens: Tensor,
        places: Tensor,
        sizes: Tensor,
        windows: dict[tuple[int, int], Tensor],
        owners: Tensor,
    ) -> None:
        self.tokens, self.places, self.sizes = tokens, places, sizes
        self.windows, self.owners = windows, owners

    @classmethod
    def of(cls, grid: Tensor, block: Any, setting: Hourglass, window: int) -> Merged:
        """Merge within each window of an HxWxC grid, before ``block``."""
        height, width, channels = grid.shape
        keys = block.attn.qkv(block.norm1(grid))[..., channels : 2 * channels]
        keys = keys.unflatten(2, (block.attn.num_heads, -1)).mean(dim=2)
        share = (setting.cluster_side(window) / window) ** 2
        owners = torch.zeros(height, width, dtype=torch.long)
        tokens, places, sizes, windows, count = [], [], [], {}, 0
        for top in range(0, height, window):
            for left in range(0, width, window):
                here = (slice(top, top + window), slice(left, left + window))
                some = grid[here].flatten(0, 1)
                keep = max(1, round(share * len(some)))
                kept, owner = merge(keys[here].flatten(0, 1), keep)
                size = torch.zeros(keep).index_add_(0, owner, torch.ones(len(some)))
                mean = torch.zeros(keep, channels).index_add_(0, owner, some) / size[:, None]
                across = grid[here].shape[1]
                tokens.append(mean)
                sizes.append(size)
                places.append(torch.stack([kept // across + top, kept % across + left], dim=1))
                windows[top, left] = torch.arange(count, count + keep)
                owners[here] = owner.view(grid[here].shape[:2]) + count
                count += keep
        return cls(torch.cat(tokens), torch.cat(places), torch.cat(sizes), windows, owners)

    def run(self, block: Any) -> None:
        """One transformer block on all that is left."""
        attention, channels = block.attn, self.tokens.shape[1]
        qkv = attention.qkv(block.norm1(self.tokens))
        out = torch.empty(len(self.tokens), channels)
        if block.window_size == 0:
            out[:] = attend(attention, qkv, qkv, self.places, self.places, self.sizes.log())
        else:
            for corner, some in self.windows.items():
                own = self.places[some] - torch.tensor(corner)
                beyond = self._padding(corner, block.window_size)
                keys = torch.cat([qkv[some], attention.qkv.bias.expand(len(beyond), -1)])
                sizes = torch.cat([self.sizes[some], torch.ones(len(beyond))])
                places = torch.cat([own, beyond])
                out[some] = attend(attention, qkv[some], keys, own, places, sizes.log())
        tokens = self.tokens + attention.proj(out)
        self.tokens = tokens + block.mlp(block.norm2(tokens))

    def grid(self) -> Tensor:
        """HxWxC: every token as what it was merged into."""
        return self.tokens[self.owners]

    def _padding(self, corner: tuple[int, int], window: int) -> Tensor:
        """Places in a window that lie beyond the grid: SAM attends to them as zero tokens."""
        places = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        return places[((places + torch.tensor(corner)) >= torch.tensor(self.owners.shape)).any(1)]


def merge(keys: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Bipartite soft matching until ``keep`` of T tokens are left (ToMe, section 3).

    Arguments:
        keys: Txd, what similarity is measured by.

    Returns:
        the ``keep`` tokens that others were merged into, and of each of the T its number there.
    """
    owner = torch.arange(len(keys))
    left = torch.arange(len(keys))
    sums = keys.clone()
    while len(left) > keep:
        first, second = left[::2], left[1::2]
        similar = F.normalize(sums[first], dim=1) @ F.normalize(sums[second], dim=1).T
        best, partner = similar.max(dim=1)
        going = best.argsort(descending=True)[: len(left) - keep]
        for gone, into in zip(first[going], second[partner[going]], strict=True):
            owner[owner == gone] = into
            sums[into] += sums[gone]
        staying = torch.ones(len(left), dtype=torch.bool)
        staying[2 * going] = False
        left = left[staying]
    numbers = torch.zeros(len(keys), dtype=torch.long)
    numbers[left] = torch.arange(keep)
    return left, numbers[owner]


def attend(
    attention: Any, qkv: Tensor, keys_qkv: Tensor, own: Tensor, others: Tensor, log_sizes: Tensor
) -> Tensor:
    """Attention from n tokens to m, at any places of the grid: nxC."""
    heads = attention.num_heads
    q = qkv.unflatten(1, (3, heads, -1))[:, 0].transpose(0, 1)
    k, v = keys_qkv.unflatten(1, (3, heads, -1))[:, 1:].permute(1, 2, 0, 3)
    scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5 + log_sizes
    if attention.use_rel_pos:
        for axis, table in enumerate((attention.rel_pos_h, attention.rel_pos_w)):
            middle = (len(table) - 1) // 2
            away = own[:, None, axis] - others[None, :, axis] + middle
            by_distance = q @ resized_table(table, middle + 1).T
            scores += by_distance.gather(2, away.expand(heads, -1, -1))
    return (scores.softmax(dim=-1) @ v).transpose(0, 1).flatten(1)


if __name__ == "__main__":
    with torch.no_grad():
        main()
