from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from expedit_sam.batch import estimate as module
from expedit_sam.batch.job import Job
from expedit_sam.batch.run import in_this_process, run
from expedit_sam.batch.sources import list_items
from expedit_sam.batch.task import Task
from expedit_sam.model.sam import Sam
from tests.batch.conftest import TAKE_ALL


def test_a_few_images_stand_for_all(
    tmp_path: Path, pictures: Path, tiny_sam: Sam, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = list_items(str(pictures))
    task = Task.of(tiny_sam, everything=TAKE_ALL)
    clock = SimpleNamespace(perf_counter=iter([100.0, 108.0]).__next__)
    monkeypatch.setattr(module, "time", clock)
    found = module.estimate(items, tiny_sam, task)
    assert (found.images, found.measured, found.failures) == (6, 4, 0)
    assert found.hours == pytest.approx(8 / 4 * 6 / 3600)
    job = Job.open(tmp_path, {"images_per_shard": 6}, lambda: items.take([0, 1, 3, 5]))
    run(job, in_this_process(tiny_sam, task))
    assert found.bytes == pytest.approx(job.shard(0).stat().st_size / 4 * 6, rel=0.01)
