"""Which official checkpoints exist."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Checkpoint:
    """One official checkpoint and what its file has to be.

    Attributes:
        model: name of the architecture it belongs to.
        file: name of the file.
        url: where it is published.
        size: length of the file in bytes.
        sha256: hash of the file, as hexadecimal digits.
        licence: under which it is published, as an SPDX identifier.
        source: who made it.
    """

    model: str
    file: str
    url: str
    size: int
    sha256: str
    licence: str
    source: str


def _segment_anything(model: str, file: str, size: int, sha256: str) -> Checkpoint:
    return Checkpoint(
        model=model,
        file=file,
        url=f"https://dl.fbaipublicfiles.com/segment_anything/{file}",
        size=size,
        sha256=sha256,
        licence="Apache-2.0",
        source="Meta AI, Segment Anything (arXiv 2304.02643), trained on SA-1B",
    )


CHECKPOINTS = {
    "vit_b": _segment_anything(
        "vit_b",
        "sam_vit_b_01ec64.pth",
        375_042_383,
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    "vit_l": _segment_anything(
        "vit_l",
        "sam_vit_l_0b3195.pth",
        1_249_524_607,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "vit_h": _segment_anything(
        "vit_h",
        "sam_vit_h_4b8939.pth",
        2_564_550_879,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
}
