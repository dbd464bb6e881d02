from __future__ import annotations

import torch

from expedit_sam.model.relative_positions import relative_positions


def test_tables_of_another_length_are_interpolated() -> None:
    table = torch.linspace(-1, 1, 27)[:, None].expand(27, 4)
    places = relative_positions(table, 9)
    assert places.shape == (9, 9, 4)
    # Further right keys lie at smaller relative positions.
    assert (places[0, 1:, 0] < places[0, :-1, 0]).all()
    torch.testing.assert_close(places[3, 3], torch.zeros(4), atol=1e-6, rtol=0)
