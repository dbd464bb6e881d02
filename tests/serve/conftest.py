from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image


def encoded(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def png(photo: np.ndarray) -> bytes:
    return encoded(photo)
