from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
import torch

from expedit_sam.batch import Task, segment
from expedit_sam.batch.run import in_this_process, run
from expedit_sam.batch.schema import ITEMS
from expedit_sam.errors import InputError
from expedit_sam.model.sam import Sam
from tests.batch.conftest import TAKE_ALL, picture, shards_of
from tests.batch.test_job import job_of
from tests.batch.test_stages import through

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow

# Settings of Ray: whom it waits for it soon gives up.
HASTY = {f"RAY_{name}_connect_timeout_s": "1" for name in ("py_gcs", "gcs_rpc_server")}


@pytest.fixture(scope="module")
def local() -> Iterator[None]:
    """A Ray that believes in a GPU."""
    from expedit_sam.batch.on_ray import cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_OVERRIDE_RESOURCES", '{"GPU": 1}')
        with cluster():
            yield


def test_segment_composes_with_a_dataset(
    local: None, tiny_sam: Sam, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray.data

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    rows = [{"n": n, "points": [[5.0, 6.0]], "image": picture(n)} for n in range(3)]
    task = Task.of(tiny_sam)
    dataset = segment(ray.data.from_items(rows), tiny_sam, task, threads=1)
    found = sorted(
        dataset.map(lambda row: {"n": row["n"], "area": row["masks"][0]["area"]}).take_all(),
        key=lambda row: row["n"],
    )
    expected = through(tiny_sam, task, [{"n": n, "points": [[5.0, 6.0]]} for n in range(3)])
    assert found == [{"n": row["n"], "area": row["masks"][0]["area"]} for row in expected]


def test_nobody_else_gets_in(local: None) -> None:
    address = ray.get_runtime_context().gcs_address
    program = f"import ray; ray.init('{address}'); print('in')"
    env = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"}
    for mode in ("token", "disabled"):  # with what ~/.ray holds, and with no token
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=env | HASTY | {"RAY_AUTH_MODE": mode, "RAY_NUM_REDIS_GET_RETRIES": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode
        assert not done.stdout


def test_no_cluster_at_an_address() -> None:
    program = "from expedit_sam.batch.on_ray import cluster; cluster('127.0.0.1:1').__enter__()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | HASTY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    expected = "InputError: no Ray cluster lets this machine in at 127.0.0.1:1: check --address"
    assert expected in done.stderr.splitlines()[-1]


def test_a_dataset_without_images(local: None, tiny_sam: Sam) -> None:
    import ray.data

    with pytest.raises(InputError, match="no column of images among id"):
        segment(ray.data.range(3), tiny_sam, Task.of(tiny_sam))


def test_segment_leaves_the_network_where_it_is(
    tiny_sam: Sam, monkeypatch: pytest.MonkeyPatch
) -> None:
    from expedit_sam.batch import on_ray

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(on_ray, "_stages", lambda _, sam, *more: sam.to("meta"))
    moved = segment(None, tiny_sam, Task.of(tiny_sam), column="image", device="cpu")
    assert (moved.device.type, tiny_sam.device.type) == ("meta", "cpu")


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from expedit_sam.batch.on_ray import Shape

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(InputError, match=f"device '{device}' is not available on Ray: pass"):
        Shape.of(1, None, device)


@pytest.mark.parametrize(
    ("resources", "asked", "expected"),
    [
        ({"CPU": 8.0, "GPU": 4.0}, (None, None, "auto"), (4, None, "cuda", 1.0)),
        ({"CPU": 8.0, "GPU": 4.0}, (8, None, "cuda"), (8, None, "cuda", 0.5)),
        ({"CPU": 2.0, "GPU": 1.0}, (2, None, "cuda"), (2, None, "cuda", 0.5)),
        ({"CPU": 8.0, "GPU": 4.0}, (2, None, "cpu"), (2, 4, "cpu", 0.0)),
        ({"CPU": 8.0}, (None, None, "auto"), (1, 8, "cpu", 0.0)),
        ({"CPU": 8.0}, (2, 3, "auto"), (2, 3, "cpu", 0.0)),
        ({"CPU": 2.0}, (4, None, "auto"), (4, 1, "cpu", 0.0)),
    ],
)
def test_a_cluster_is_shared_among_workers(
    monkeypatch: pytest.MonkeyPatch, resources: dict, asked: tuple, expected: tuple
) -> None:
    from expedit_sam.batch.on_ray import Shape

    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    shape = Shape.of(*asked)
    assert (shape.workers, shape.threads, shape.device, shape.gpus) == expected
    assert shape.workers * shape.cpus + shape.beside <= resources["CPU"]


@pytest.mark.parametrize(
    ("own", "others", "has_cuda", "device"),
    [
        (1.0, 0.0, True, "cuda"),
        (1.0, 0.0, False, "cpu"),
        (0.0, 4.0, False, "cuda"),
        (1.0, 4.0, False, "cuda"),
    ],
)
def test_gpus_that_pytorch_cannot_use_do_not_count(
    monkeypatch: pytest.MonkeyPatch, own: float, others: float, has_cuda: bool, device: str
) -> None:
    from expedit_sam.batch.on_ray import Shape

    nodes = [
        {"NodeID": "own", "Resources": {"GPU": own}},
        {"NodeID": "other", "Resources": {"GPU": others}},
        {"NodeID": "without", "Resources": {}},
    ]
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_cuda)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": own + others})
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    here = SimpleNamespace(get_node_id=lambda: "own")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: here)
    assert Shape.of(None, None, "auto").device == device


@pytest.mark.skipif(torch.cuda.is_available(), reason="workers can use the GPU here")
def test_a_worker_without_cuda_says_so_in_a_line(local: None, few: Sam) -> None:
    from expedit_sam.batch import on_ray

    shape = on_ray.Shape.of(1, None, "cuda")
    items = pa.Table.from_pylist([{"index": 0, "uri": "missing.png"}], ITEMS)
    with pytest.raises(InputError, match=r"^PyTorch on .+ cannot use its GPU: install .+'cpu'$"):
        list(on_ray.on_ray(few, Task.of(few), shape)([items]))


def test_rounds_give_what_one_process_gives(
    local: None, few: Sam, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from expedit_sam.batch import on_ray

    monkeypatch.setattr(on_ray, "_BLOCKS_PER_ROUND", 2)
    task = Task.of(few, everything=TAKE_ALL)
    run(job_of(tmp_path / "one", pictures), in_this_process(few, task, threads=1))
    shape = replace(on_ray.Shape.of(1, 1, "cpu"), gpus=1.0)  # as workers on GPUs ask for them
    run(job_of(tmp_path / "rounds", pictures), on_ray.on_ray(few, task, shape))
    assert len(shards_of(tmp_path / "rounds")) == 2
    assert shards_of(tmp_path / "rounds") == shards_of(tmp_path / "one")
