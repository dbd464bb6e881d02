"""scripts/amg.py on image files: the original's options and the original's output."""

from __future__ import annotations

import argparse
import csv
import errno
import inspect
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from expedit_sam import Hourglass, SamAutomaticMaskGenerator, SamPredictor
from expedit_sam.build import build_sam
from expedit_sam.cli.original_format import HEADER
from expedit_sam.cli.original_options import add_options, generator_arguments, hourglass_setting
from expedit_sam.hourglass import PRESETS
from expedit_sam.model.architectures import ARCHITECTURES, new_sam
from expedit_sam.weights.read import read_sam
from tests.conftest import TINY, randomized

SCRIPT = Path(__file__).parents[2] / "scripts" / "amg.py"
LENIENT = "--points-per-side 3 --pred-iou-thresh -9 --stability-score-thresh 0 --box-nms-thresh 1"
EVERY_OPTION = (
    "--model-type default --device cpu --points-per-side 2 --points-per-batch 3 "
    "--pred-iou-thresh -9 --stability-score-thresh 0 --stability-score-offset 0.5 "
    "--box-nms-thresh 0.9 --crop-n-layers 1 --crop-nms-thresh 0.8 --crop-overlap-ratio 0.3 "
    "--crop-n-points-downscale-factor 2 --min-mask-region-area 5 --use_hourglass "
    "--hourglass_clustering_location 2 --hourglass_num_cluster 81 --hourglass_cluster_iters 2 "
    "--hourglass_temperture 0.01 --hourglass_cluster_window_size 3 "
    "--hourglass_reconstruction_k 7"
)


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of a small network that goes by the name of vit_h."""
    monkeypatch.setitem(ARCHITECTURES, "vit_h", TINY)
    torch.manual_seed(0)
    path = tmp_path / "model.pth"
    torch.save(randomized(new_sam(TINY)).state_dict(), path)
    return path


@pytest.fixture
def photos(tmp_path: Path, photo: np.ndarray) -> Path:
    """A folder with two photos, a text and a folder with a further photo."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "more/c.png"):
        Image.fromarray(photo).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def amg(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of the script, run in this process."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments), *LENIENT.split()])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return int(left.value.code or 0)


def test_folder_of_photos(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert amg(monkeypatch, "--checkpoint", checkpoint, "--input", photos, "--output", out) == 0
    assert sorted(path.name for path in out.iterdir()) == ["a", "b"]
    for folder in out.iterdir():
        text = (folder / "metadata.csv").read_text()
        assert text.splitlines()[0] == HEADER
        rows = list(csv.DictReader(text.splitlines()))
        assert len(rows) >= 3
        assert sorted(p.name for p in folder.glob("*.png")) == sorted(
            f"{row['id']}.png" for row in rows
        )
        for row in rows:
            mask = np.array(Image.open(folder / f"{row['id']}.png"))
            assert mask.shape == (150, 221)
            assert set(np.unique(mask)) <= {0, 255}
            assert int(row["area"]) == (mask == 255).sum()


def test_rows_are_the_generators_records(
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Path,
    photos: Path,
    photo: np.ndarray,
    tmp_path: Path,
) -> None:
    image, out = photos / "a.png", tmp_path / "out"
    assert amg(monkeypatch, "--checkpoint", checkpoint, "--input", image, "--output", out) == 0
    records = SamAutomaticMaskGenerator(
        read_sam(checkpoint, "vit_h"),
        points_per_side=3,
        pred_iou_thresh=-9,
        stability_score_thresh=0,
        box_nms_thresh=1,
    ).generate(photo)
    lines = (out / "a" / "metadata.csv").read_text().split("\n")[1:]
    assert len(lines) == len(records)
    for number, (line, record) in enumerate(zip(lines, records, strict=True)):
        values = [float(value) for value in line.split(",")]
        assert values == [
            number,
            record["area"],
            *record["bbox"],
            *record["point_coords"][0],
            record["predicted_iou"],
            record["stability_score"],
            *record["crop_box"],
        ]
        pixels = np.array(Image.open(out / "a" / f"{number}.png"))
        assert np.array_equal(pixels == 255, record["segmentation"])


def test_json_of_coco_rle(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    arguments = ["--checkpoint", checkpoint, "--input", photos, "--output", tmp_path / "out"]
    assert amg(monkeypatch, *arguments, "--convert-to-rle") == 0
    assert (
        amg(monkeypatch, *arguments, "--convert-to-rle") == 0
    )  # the second run replaces the first
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.json", "b.json"]
    for record in json.loads((tmp_path / "out" / "a.json").read_text()):
        mask = coco.decode(record["segmentation"])
        assert mask.shape == (150, 221)
        assert mask.sum() == record["area"]


def test_every_option_of_the_original_is_taken(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    files = ["--checkpoint", checkpoint, "--input", photos / "a.png", "--output", out]
    assert amg(monkeypatch, *files, *EVERY_OPTION.split()) == 0
    assert (out / "a" / "metadata.csv").exists()


def test_every_option_of_the_original_counts() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = parser.parse_args(EVERY_OPTION.split())
    assert generator_arguments(options) == {
        "points_per_side": 2,
        "points_per_batch": 3,
        "pred_iou_thresh": -9,
        "stability_score_thresh": 0,
        "stability_score_offset": 0.5,
        "box_nms_thresh": 0.9,
        "crop_n_layers": 1,
        "crop_nms_thresh": 0.8,
        "crop_overlap_ratio": 0.3,
        "crop_n_points_downscale_factor": 2,
        "min_mask_region_area": 5,
    }
    published = Hourglass(2, 81, 2, 0.01, 3, 7, False, False, False, False)
    assert hourglass_setting(options) == published


def test_help_shows_the_defaults_of_the_generator() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    text = " ".join(parser.format_help().split())
    for shown in ("each side of the image (32)", "lower predicted IoU (0.88)", "layer (1)"):
        assert shown in text
    signature = inspect.signature(SamAutomaticMaskGenerator)
    for name, value in generator_arguments(parser.parse_args([])).items():
        assert value == signature.parameters[name].default


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", None),
        ("--hourglass_num_cluster 81", None),
        ("--use_hourglass", PRESETS["balanced"]),
        (
            "--use_hourglass --hourglass_num_cluster 81 --hourglass_clustering_location 1",
            Hourglass(1, 81, 5, 0.005, 5, 20, False, False, False, False),
        ),
        (
            "--use_hourglass --hourglass_temperature 0.02 --hourglass_clustering_location 3",
            Hourglass(3, 100, 5, 0.02, 5, 20, False, False, False, False),
        ),
        ("--use_hourglass --hourglass_clustering_location -1", None),
    ],
)
def test_hourglass_options_set_the_speed(
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Path,
    photos: Path,
    tmp_path: Path,
    options: str,
    expected: Hourglass | None,
) -> None:
    used = []
    encode = SamPredictor.encode_scaled
    monkeypatch.setattr(
        SamPredictor,
        "encode_scaled",
        lambda self, images: (
            used.append(self.model.image_encoder.hourglass) or encode(self, images)
        ),
    )
    files = ["--checkpoint", checkpoint, "--input", photos / "a.png", "--output", tmp_path / "out"]
    assert amg(monkeypatch, *files, *options.split()) == 0
    assert used == [expected]


def test_a_folders_own_photos_are_those_that_link_elsewhere_too(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    (photos / "z.png").symlink_to(photos / "more" / "c.png")
    out = tmp_path / "out"
    assert amg(monkeypatch, "--checkpoint", checkpoint, "--input", photos, "--output", out) == 0
    assert sorted(path.name for path in out.iterdir()) == ["a", "b", "z"]


def test_photos_in_subfolders_alone(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    photos: Path,
    tmp_path: Path,
) -> None:
    outer, out = photos.rename(tmp_path / "inner").parent, tmp_path / "out"
    assert amg(monkeypatch, "--checkpoint", checkpoint, "--input", outer, "--output", out) == 2
    assert "no images directly in" in capsys.readouterr().err
    assert not out.exists()


def test_bad_photos_are_named_and_the_others_done(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    photos: Path,
    tmp_path: Path,
) -> None:
    (photos / "aa.jpg").write_text("no image at all")
    truncated = (photos / "b.jpg").read_bytes()[:900]
    (photos / "ab.jpg").write_bytes(truncated)
    out = tmp_path / "out"
    assert amg(monkeypatch, "--checkpoint", checkpoint, "--input", photos, "--output", out) == 2
    assert sorted(path.name for path in out.iterdir()) == ["a", "b"]
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "aa.jpg" in errors[0]
    assert "ab.jpg" in errors[1]


def test_a_photo_that_memory_is_short_of(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    photos: Path,
    tmp_path: Path,
) -> None:
    Image.effect_noise((70, 20), 50).save(photos / "b.jpg")
    generate = SamAutomaticMaskGenerator.generate

    def short_of_memory(self: SamAutomaticMaskGenerator, image: np.ndarray) -> list:
        if image.shape[1] == 70:
            raise MemoryError
        return generate(self, image)

    monkeypatch.setattr(SamAutomaticMaskGenerator, "generate", short_of_memory)
    (photos / "c.png").write_bytes((photos / "a.png").read_bytes())
    out = tmp_path / "out"
    assert amg(monkeypatch, "--checkpoint", checkpoint, "--input", photos, "--output", out) == 2
    assert sorted(path.name for path in out.iterdir()) == ["a", "c"]
    (error,) = capsys.readouterr().err.splitlines()
    assert "b.jpg needs more memory than there is" in error


def test_a_full_disk_ends_the_run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    photos: Path,
    tmp_path: Path,
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", full)  # metadata.csv, after the masks
    out = tmp_path / "out"
    assert amg(monkeypatch, "--checkpoint", checkpoint, "--input", photos, "--output", out) == 2
    assert list(out.iterdir()) == []
    printed = capsys.readouterr()
    assert "b.jpg" not in printed.out
    (error,) = printed.err.splitlines()
    assert f"cannot write to {out} (No space left on device)" in error


def test_results_of_an_earlier_run_are_kept(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    photos: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    (out / "a").mkdir(parents=True)
    assert amg(monkeypatch, "--checkpoint", checkpoint, "--input", photos, "--output", out) == 2
    assert list((out / "a").iterdir()) == []
    assert (out / "b" / "metadata.csv").exists()
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--checkpoint": "missing.pth"}, "missing.pth"),
        ({"--input": "missing.png"}, "missing.png"),
        ({"--model-type": "vit_b"}, "vit_h"),
        ({"--device": "nowhere"}, "nowhere"),
        (
            {"--crop-n-layers": "1", "--crop-n-points-downscale-factor": "4"},
            "crop_n_points_downscale_factor is 4",
        ),
        (
            {
                "--checkpoint": "missing.pth",  # found out only after what is quick to check
                "--use_hourglass": None,
                "--hourglass_num_cluster": "80",
            },
            "clusters is 80",
        ),
        (
            {
                "--use_hourglass": None,
                "--hourglass_clustering_location": "1",
                "--hourglass_num_cluster": "400",
            },
            "400",
        ),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    photos: Path,
    tmp_path: Path,
    changes: dict[str, str | None],
    message: str,
) -> None:
    options = {
        "--checkpoint": checkpoint,
        "--input": photos,
        "--output": tmp_path / "out",
    } | changes
    arguments = [part for option in options.items() for part in option if part is not None]
    assert amg(monkeypatch, *arguments) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert message in errors[0]


def test_as_a_command(photos: Path, tmp_path: Path) -> None:
    """The fork's line verbatim, with a checkpoint of the smallest network."""
    path = tmp_path / "vit_s.pth"
    torch.save(build_sam("vit_s", checkpoint="random").state_dict(), path)
    command = [sys.executable, str(SCRIPT), "--checkpoint", str(path)]
    command += ["--input", str(photos / "a.png"), "--output", str(tmp_path / "out")]
    command += ["--use_hourglass", "--points-per-side", "2"]
    source = str(SCRIPT.parents[1] / "src")
    environment = os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "Done!"
    assert (tmp_path / "out" / "a" / "metadata.csv").read_text().startswith("id,area,")


def test_a_name_that_the_output_cannot_show(tmp_path: Path) -> None:
    photo = tmp_path / "Фото.png"
    photo.touch()
    command = [sys.executable, str(SCRIPT), "--checkpoint", "random", "--model-type", "vit_s"]
    command += ["--input", str(photo), "--output", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "\\u0424\\u043e\\u0442\\u043e.png" in done.stdout
    assert "it is empty, get it again" in done.stderr
    assert "Traceback" not in done.stderr
