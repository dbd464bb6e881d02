from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from expedit_sam import Hourglass, SamAutomaticMaskGenerator, SamPredictor
from expedit_sam.evaluate.baselines import find_baselines
from expedit_sam.evaluate.contestants import Answer, Network, Prompts, networks_at
from expedit_sam.evaluate.datasets import find_examples
from expedit_sam.evaluate.prompts import KINDS, bounding_box, interior_point
from expedit_sam.evaluate.run import evaluate
from expedit_sam.evaluate.trial import Trial
from expedit_sam.everything.rle import Rle, decode_mask
from expedit_sam.model.sam import Sam

EVERYTHING = {"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
SETTINGS = {"exact": None, "small": Hourglass(location=1, clusters=49)}


class Knowing:
    """A contestant that knows the truth of an image and answers with less and less of an error."""

    name = "knowing"
    kinds: tuple[str, ...] = KINDS

    def __init__(self, regions: list[Rle]) -> None:
        self.regions = regions
        self.asked: list[Prompts] = []

    def identity(self, kinds: Sequence[str]) -> dict[str, Any]:
        return {}

    def set_image(self, image: np.ndarray) -> None:
        pass

    def ask(self, prompts: Prompts) -> Answer:
        self.asked.append(prompts)
        truth = np.stack([decode_mask(region) for region in self.regions])
        good, bad = truth[:, None], np.zeros_like(truth[:, None])
        if prompts.boxes is not None:
            return Answer(good, np.ones((len(truth), 1)))
        assert prompts.points is not None
        if prompts.points.shape[1] == 1:  # the best of three is not what it would choose
            scores = np.tile([0.1, 0.9, 0.2], (len(truth), 1))
            return Answer(np.concatenate([good, bad, bad], axis=1), scores)
        upper = good.copy()
        upper[:, :, 110:] = False
        upper[:, :, :65] &= ~good[:, :, :65] if prompts.points.shape[1] < 5 else True
        return Answer(upper, np.ones((len(truth), 1)))

    def everything(self, image: np.ndarray) -> list[Rle]:
        return self.regions[:1]


def test_prompts_and_figures(labelled: Path) -> None:
    image, truth = find_examples(labelled)[0].read(None, 0)
    contestant = Knowing(truth)
    figures = Trial(image, truth, KINDS, np.random.default_rng(0)).run(contestant, None).figures

    masks = [decode_mask(region) for region in truth]
    first, second, third, _, fifth, box, jittered = contestant.asked
    assert first.points is not None
    assert first.points[:, 0].tolist() == [list(interior_point(mask)) for mask in masks]
    assert first.labels is not None
    assert first.labels.tolist() == [[1], [1]]
    assert second.before is not None
    assert second.points is not None
    # Nothing was found: the most interior point once more.
    np.testing.assert_array_equal(second.points[:, 1], first.points[:, 0])
    assert third.points is not None
    assert third.points.shape == (2, 3, 2)
    x, y = third.points[0, 2].astype(int)
    assert masks[0][y, x]
    assert y < 65  # the half that was missing
    assert fifth.points is not None
    assert fifth.points.shape == (2, 5, 2)
    assert box.boxes is not None
    assert jittered.boxes is not None
    np.testing.assert_array_equal(box.boxes, [bounding_box(mask) for mask in masks])
    assert 0 < np.abs(jittered.boxes - box.boxes).max() <= 20

    assert figures["click"]["iou"] == [0, 0]
    assert figures["click"]["best_iou"] == [1, 1]
    assert figures["clicks3"]["iou"] == pytest.approx([0.5, 0.25])
    assert figures["clicks5"]["iou"] == pytest.approx([1, 0.25])
    assert "best_iou" not in figures["clicks5"]
    assert figures["box"]["iou"] == figures["box"]["boundary_f"] == [1, 1]
    assert figures["everything"]["recall_50"] == figures["everything"]["recall_75"] == [1, 0]
    assert figures["everything"]["masks"] == [1]
    assert all(len(figures[kind]["seconds"]) == 1 for kind in KINDS)


def test_against_the_exact_network(labelled: Path) -> None:
    image, truth = find_examples(labelled)[0].read(None, 0)
    trial = Trial(image, truth, KINDS, np.random.default_rng(0))
    exact = trial.run(Knowing(truth), None)
    same = trial.run(Knowing(truth), exact).figures
    for kind in KINDS:
        assert set(same[kind]["same_as_exact"]) == {1.0}
        assert same[kind]["change"] == [0, 0]
    other = trial.run(Knowing(truth[::-1]), exact).figures
    assert other["box"]["same_as_exact"] == [0, 0]
    assert other["box"]["change"] == [-1, -1]


def test_regions_taken_one_by_one_give_the_same(
    labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, truth = find_examples(labelled)[0].read(None, 0)
    (grabcut,) = find_baselines(["grabcut"])
    kinds = ("box", "jittered-box")
    trial = Trial(image, truth, kinds, np.random.default_rng(0))
    together = trial.run(grabcut, None)
    monkeypatch.setattr("expedit_sam.evaluate.trial._PROMPTS_AT_ONCE", 1)
    one_by_one = trial.run(grabcut, together)
    assert one_by_one.masks == together.masks
    for kind in kinds:
        figures = one_by_one.figures[kind]
        assert figures["iou"] == together.figures[kind]["iou"]
        assert figures["same_as_exact"] == [1, 1]
        assert figures["change"] == [0, 0]


def test_a_network_answers_as_its_predictor_does(tiny_sam: Sam, photo: np.ndarray) -> None:
    _, network = networks_at(tiny_sam, SETTINGS, EVERYTHING)
    network.set_image(photo)
    points = np.array([[[90.0, 60.0]], [[170.0, 110.0]]])
    one = network.ask(Prompts(points, np.ones((2, 1), np.int32)))
    more = np.concatenate([points, [[[5.0, 5.0]]] * 2], axis=1)
    two = network.ask(Prompts(more, np.array([[1, 0]] * 2, np.int32), before=one))
    box = network.ask(Prompts(boxes=np.array([[60.0, 40.0, 120.0, 90.0]])))

    tiny_sam.image_encoder.hourglass = SETTINGS["small"]
    predictor = SamPredictor(tiny_sam)
    predictor.set_image(photo)
    for i in range(2):
        masks, scores, logits = predictor.predict(points[i], np.array([1]))
        best = scores.argmax()
        assert (one.candidates[i] != masks).mean() < 1e-3
        assert (one.chosen[i] != masks[best]).mean() < 1e-3
        masks, _, _ = predictor.predict(
            more[i], np.array([1, 0]), mask_input=logits[[best]], multimask_output=False
        )
        assert two.candidates.shape[1] == 1
        assert (two.chosen[i] != masks[0]).mean() < 1e-3
    masks, _, _ = predictor.predict(box=np.array([60, 40, 120, 90]), multimask_output=False)
    assert (box.chosen[0] != masks[0]).mean() < 1e-3

    generator = SamAutomaticMaskGenerator(tiny_sam, **EVERYTHING)
    assert len(network.everything(photo)) == len(generator.generate(photo)) > 0


def test_everything_is_found_at_each_settings_own_speed(tiny_sam: Sam, photo: np.ndarray) -> None:
    used = []
    tiny_sam.image_encoder.register_forward_hook(
        lambda encoder, args, output: used.append(encoder.hourglass)
    )
    for network in networks_at(tiny_sam, SETTINGS, EVERYTHING):
        network.everything(photo)
    assert used == list(SETTINGS.values())


def test_what_a_networks_records_depend_on(tiny_sam: Sam) -> None:
    exact, small = networks_at(tiny_sam, SETTINGS, EVERYTHING)
    assert exact.identity(["click"]) != small.identity(["click"])
    assert exact.identity(["click"]) != exact.identity(["everything"])
    before = exact.identity(["click"])
    assert before == networks_at(tiny_sam, SETTINGS, {})[0].identity(["click"])
    tiny_sam.mask_decoder.iou_token.weight.data += 1e-3
    assert before != networks_at(tiny_sam, SETTINGS, EVERYTHING)[0].identity(["click"])


def test_a_run_goes_on_where_it_was(
    labelled: Path, tmp_path: Path, tiny_sam: Sam, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ["click", "box", "everything"]
    examples = find_examples(labelled)
    networks = networks_at(tiny_sam, SETTINGS, EVERYTHING)
    progress: list[tuple[int, int]] = []
    results = evaluate(
        networks,
        [],
        examples,
        kinds,
        tmp_path / "records",
        on_progress=lambda *step: progress.append(step),
    )
    assert progress[-1] == (4, 4)
    assert set(results) == {"exact", "small"}
    for images in results.values():
        assert [len(image["box"]["iou"]) for image in images] == [2, 2]
    assert "same_as_exact" not in results["exact"][0]["click"]
    assert 0 < np.mean(results["small"][0]["click"]["same_as_exact"]) <= 1
    change = np.subtract(results["small"][0]["box"]["iou"], results["exact"][0]["box"]["iou"])
    np.testing.assert_allclose(results["small"][0]["box"]["change"], change, atol=2e-5)

    encoded: list[str] = []
    set_image = Network.set_image

    def counted(self: Network, image: np.ndarray) -> None:
        encoded.append(self.name)
        set_image(self, image)

    monkeypatch.setattr(Network, "set_image", counted)
    assert evaluate(networks, [], examples, kinds, tmp_path / "records") == results
    assert encoded == []

    # A line lost: that image again, and the exact network for its masks; the rest stays.
    (file,) = (tmp_path / "records").glob("small-*")
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]))
    again = evaluate(networks, [], examples, kinds, tmp_path / "records")
    assert set(encoded) == {"exact", "small"}
    assert again["exact"] == results["exact"]
    assert again["small"][0] == results["small"][0]
    assert again["small"][1]["click"]["iou"] == results["small"][1]["click"]["iou"]


@pytest.mark.parametrize("changed", ["PyTorch", "code"])
def test_other_code_measures_anew(
    labelled: Path, tmp_path: Path, tiny_sam: Sam, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    networks, examples = networks_at(tiny_sam, {"exact": None}, {}), find_examples(labelled)[:1]
    evaluate(networks, [], examples, ["box"], tmp_path)
    assert len(list(tmp_path.glob("exact-*"))) == 1
    if changed == "PyTorch":
        monkeypatch.setattr(torch, "__version__", "9.9.9")
    else:
        monkeypatch.setattr("expedit_sam.evaluate.run._CODE", ("model",))
    evaluate(networks, [], examples, ["box"], tmp_path)
    assert len(list(tmp_path.glob("exact-*"))) == 2
