"""The columns of a batch: of the items that come in and of the rows that come out."""

from __future__ import annotations

import pyarrow as pa

_BOX = pa.list_(pa.float64())

PROMPT = pa.struct(
    [
        ("points", pa.list_(_BOX)),  # [[x, y], ...] in pixels of the image
        ("labels", pa.list_(pa.int64())),  # 1 foreground, 0 background, one a point
        ("box", _BOX),  # [x0, y0, x1, y1], or null
    ]
)

# An item is an image and where its bytes are: a whole file, a stretch of a tar, a row of a Parquet.
ITEMS = pa.schema(
    [
        ("index", pa.int64()),  # place in the job, from 0
        ("image_id", pa.int64()),  # COCO's where there is one, else index + 1
        ("image", pa.string()),  # what the source calls it
        ("uri", pa.string()),
        ("offset", pa.int64()),  # in a tar, bytes
        ("size", pa.int64()),  # in a tar, bytes
        ("row", pa.int64()),  # in a Parquet file
        ("prompts", pa.list_(PROMPT)),  # null where the source has none
    ]
)

MASK = pa.struct(
    [
        # COCO's run-length encoding, as pycocotools takes it
        (
            "segmentation",
            pa.struct([("size", pa.list_(pa.int64())), ("counts", pa.string())]),
        ),
        ("bbox", _BOX),  # x, y, width, height
        ("area", pa.int64()),  # pixels
        ("predicted_iou", pa.float32()),
        ("stability_score", pa.float32()),  # null where prompts were given
        ("prompt", PROMPT),
        ("crop_box", _BOX),  # x, y, width, height; null where prompts were given
    ]
)

SECONDS = pa.struct([("read", pa.float64()), ("network", pa.float64()), ("masks", pa.float64())])

# What segmenting adds to a row.
RESULT = [
    pa.field("height", pa.int64()),  # null where the image could not be read, as width and masks
    pa.field("width", pa.int64()),
    pa.field("masks", pa.list_(MASK)),
    pa.field("error", pa.string()),  # one line, null where all went well
    pa.field("model", pa.string()),
    pa.field("speed", pa.string()),
    pa.field("weights", pa.string()),  # their hash
    pa.field("seconds", SECONDS),
]

# A row of a shard: nothing in it depends on when, where or beside what it was made.
SHARD = pa.schema(
    [
        ITEMS.field("index"),
        ITEMS.field("image_id"),
        ITEMS.field("image"),
        *(field for field in RESULT if field.name != "seconds"),
    ]
)
