"""Between image and network coordinates, under the original's name."""

from expedit_sam.transforms import ResizeLongestSide

__all__ = ["ResizeLongestSide"]
