"""The prompt encoder: points, boxes and masks to embeddings."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from expedit_sam.model.layers import LayerNorm2d


class PromptEncoder(nn.Module):
    """SAM's prompt encoder (Segment Anything, appendix A).

    Arguments:
        embed_dim: channels of an embedding.
        image_embedding_size: height and width of the image embedding in tokens.
        input_image_size: height and width of the padded network input in pixels.
        mask_in_chans: channels in between when a mask input is embedded.
        activation: activation there.
    """

    def __init__(
        self,
        embed_dim: int,
        image_embedding_size: tuple[int, int],
        input_image_size: tuple[int, int],
        mask_in_chans: int,
        activation: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.input_image_size = input_image_size
        self.image_embedding_size = image_embedding_size
        self.pe_layer = PositionEmbeddingRandom(embed_dim // 2)
        # Background point, foreground point, top-left and bottom-right corner of a box.
        self.num_point_embeddings = 4
        self.point_embeddings = nn.ModuleList(
            nn.Embedding(1, embed_dim) for _ in range(self.num_point_embeddings)
        )
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.mask_input_size = (4 * image_embedding_size[0], 4 * image_embedding_size[1])
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_in_chans // 4, kernel_size=2, stride=2),
            LayerNorm2d(mask_in_chans // 4),
            activation(),
            nn.Conv2d(mask_in_chans // 4, mask_in_chans, kernel_size=2, stride=2),
            LayerNorm2d(mask_in_chans),
            activation(),
            nn.Conv2d(mask_in_chans, embed_dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, embed_dim)

    def get_dense_pe(self) -> Tensor:
        """Positions of the image tokens: 1xembed_dimxhxw."""
        return self.pe_layer(self.image_embedding_size).unsqueeze(0)

    def forward(
        self,
        points: tuple[Tensor, Tensor] | None,
        boxes: Tensor | None,
        masks: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Embed B prompts; each kind may be missing.

        Arguments:
            points: BxNx2 coordinates (x, y) in network pixels, and BxN labels: 1 foreground,
                0 background, -1 no point.
            boxes: Bx4 (x0, y0, x1, y1) in network pixels.
            masks: Bx1x4hx4w low-res logits.

        Returns:
            BxTxembed_dim sparse and Bxembed_dimxhxw dense embeddings. Without a mask the dense one
            is a single vector expanded (stride 0), which the decoder takes as shared.
        """
        batch = self._get_batch_size(points, boxes, masks)
        sparse = [self.no_mask_embed.weight.new_empty((batch, 0, self.embed_dim))]
        if points is not None:
            sparse.append(self._embed_points(*points, pad=boxes is None))
        if boxes is not None:
            sparse.append(self._embed_boxes(boxes))
        if masks is not None:
            dense = self._embed_masks(masks)
        else:
            dense = self.no_mask_embed.weight.view(1, -1, 1, 1).expand(
                batch, -1, *self.image_embedding_size
            )
        return torch.cat(sparse, dim=1), dense

    def _embed_masks(self, masks: Tensor) -> Tensor:
        return self.mask_downscaling(masks)

    def _get_device(self) -> torch.device:
        return self.no_mask_embed.weight.device

    def _embed_points(self, points: Tensor, labels: Tensor, pad: bool) -> Tensor:
        points = points + 0.5  # to the centre of the pixel
        if pad:
            points = torch.cat([points, points.new_zeros(len(points), 1, 2)], dim=1)
            none = torch.full((len(labels), 1), -1, device=labels.device)
            labels = torch.cat([labels, none], dim=1)
        embedding = self.pe_layer.forward_with_coords(points, self.input_image_size)
        labels = labels[..., None]
        embedding = torch.where(labels == -1, self.not_a_point_embed.weight, embedding)
        for label in (0, 1):
            weight: Any = self.point_embeddings[label].weight
            embedding = torch.where(labels == label, embedding + weight, embedding)
        return embedding

    def _embed_boxes(self, boxes: Tensor) -> Tensor:
        corners = (boxes + 0.5).reshape(-1, 2, 2)  # to the centre of the pixel
        embedding = self.pe_layer.forward_with_coords(corners, self.input_image_size)
        corner_weights: list[Any] = [corner.weight for corner in self.point_embeddings[2:]]
        return embedding + torch.cat(corner_weights)

    @staticmethod
    def _get_batch_size(
        points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> int:
        given = [points[0] if points is not None else None, boxes, masks]
        return next((len(prompt) for prompt in given if prompt is not None), 1)


class PositionEmbeddingRandom(nn.Module):
    """Positions as sines and cosines of random spatial frequencies (arXiv 2006.10739)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, num_pos_feats: int = 64, scale: float | None = None) -> None:
        super().__init__()
        spread = scale if scale is not None and scale > 0 else 1.0
        self.register_buffer(
            "positional_encoding_gaussian_matrix", spread * torch.randn((2, num_pos_feats))
        )

    def _pe_encoding(self, coords: Tensor) -> Tensor:
        """...x2 coordinates in [0, 1] to ...x(2*num_pos_feats)."""
        matrix = self.positional_encoding_gaussian_matrix
        angles = 2 * math.pi * ((2 * coords - 1).to(matrix.dtype) @ matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def forward(self, size: tuple[int, int]) -> Tensor:
        """Positions of the cells of an (h, w) grid: Cxhxw."""
        device = self.positional_encoding_gaussian_matrix.device
        y, x = (
            (torch.arange(side, device=device, dtype=torch.float32) + 0.5) / side for side in size
        )
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        return self._pe_encoding(torch.stack([columns, rows], dim=-1)).permute(2, 0, 1)

    def forward_with_coords(self, coords_input: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Positions of BxNx2 points (x, y) in pixels of an (h, w) image: BxNxC."""
        size = torch.tensor([image_size[1], image_size[0]], device=coords_input.device)
        return self._pe_encoding((coords_input / size).float())
