from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from typer.testing import CliRunner

from expedit_sam.batch.prompts import points_prompt
from expedit_sam.cli.commands import app
from expedit_sam.everything import SamAutomaticMaskGenerator, rle
from expedit_sam.everything.recommended import RECOMMENDED
from expedit_sam.model.sam import Sam
from expedit_sam.predictor import SamPredictor
from tests.batch.conftest import TAKE_ALL
from tests.serve.conftest import PATIENCE, encoded, held, until

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient

from expedit_sam.serve.app import build_app
from expedit_sam.serve.engine import Busy, Engine, Question, Stopping

POINT = points_prompt([[1, 1]], [1])


@pytest.fixture
def engine(tiny_sam: Sam, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setitem(RECOMMENDED, "vit_s", TAKE_ALL)
    engine = Engine(tiny_sam, "vit_s", "exact", megapixels=0.1, kept=2, waiting=8)
    yield engine
    engine.stop()
    engine._thread.join(PATIENCE)


@pytest.fixture
def client(engine: Engine) -> Iterator[TestClient]:
    with TestClient(build_app(engine, megabytes=0.2)) as client:
        yield client


def ask(client: TestClient, image: bytes, prompts: object = None, **fields: str) -> object:
    if prompts is not None:
        fields["prompts"] = prompts if isinstance(prompts, str) else json.dumps(prompts)
    return client.post("/masks", files={"image": image}, data=fields)


def test_prompts(client: TestClient, png: bytes, photo: np.ndarray, tiny_sam: Sam) -> None:
    response = ask(client, png, {"points": [[60, 70]], "boxes": [[10, 20, 100, 90]]})
    assert response.status_code == 200
    document = response.json()
    assert (document["height"], document["width"]) == photo.shape[:2]
    predictor = SamPredictor(tiny_sam)
    predictor.set_image(photo)
    box, point = document["masks"]
    for mask, (masks, scores, _) in [
        (box, predictor.predict(box=np.array([10, 20, 100, 90]), multimask_output=False)),
        (point, predictor.predict(np.array([[60, 70]]), np.array([1]))),
    ]:
        found = coco.decode(mask["segmentation"]).astype(bool)
        assert (found == masks[scores.argmax()]).mean() > 0.999
        assert mask["predicted_iou"] == pytest.approx(scores.max(), abs=1e-5)


def test_label_map(client: TestClient, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = np.zeros(photo.shape[:2], int)
    squares = {2: slice(0, 90), 3: slice(20, 70), 1: slice(30, 50)}
    masks = {}
    for value, square in squares.items():
        mask = np.zeros(photo.shape[:2], bool)
        expected[square, square], mask[square, square] = value, True
        (segmentation,) = rle.encode_masks(mask[None])
        masks[value] = {"segmentation": rle.to_coco(segmentation), "area": int(mask.sum())}
    monkeypatch.setattr(
        "expedit_sam.serve.engine.masks_of", lambda *_: [masks[value] for value in sorted(masks)]
    )
    response = ask(client, encoded(photo), {"points": [[1, 1]]}, format="png")
    assert response.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(Image.open(io.BytesIO(response.content)), expected)


def test_everything(client: TestClient, png: bytes, photo: np.ndarray, tiny_sam: Sam) -> None:
    response = ask(client, png)
    assert response.status_code == 200
    generator = SamAutomaticMaskGenerator(tiny_sam, output_mode="coco_rle", **TAKE_ALL)
    expected = generator.generate(photo)
    assert len(expected) > 0
    found = response.json()["masks"]
    assert [mask["segmentation"] for mask in found] == [mask["segmentation"] for mask in expected]
    assert [mask["prompt"]["points"] for mask in found] == [
        mask["point_coords"] for mask in expected
    ]


def test_the_images_asked_for_last_are_kept(
    client: TestClient, engine: Engine, photo: np.ndarray
) -> None:
    pictures = [encoded(np.roll(photo, shift)) for shift in range(3)]
    first, second, again, _, kept, forgotten = (
        ask(client, pictures[number], {"points": [[9, 9]]}).json() for number in (0, 1, 0, 2, 0, 1)
    )
    assert (engine.hits, engine.misses) == (2, 4)
    assert again == kept == first
    assert forgotten == second


def test_many_at_a_time(client: TestClient, engine: Engine, photo: np.ndarray) -> None:
    pictures = [encoded(np.roll(photo, shift)) for shift in range(4)]
    alone = [ask(client, picture, {"points": [[9, 9]]}).json() for picture in pictures]
    with ThreadPoolExecutor(8) as clients:
        together = list(
            clients.map(lambda n: ask(client, pictures[n % 4], {"points": [[9, 9]]}), range(24))
        )
    assert {response.status_code for response in together} == {200}
    assert [response.json() for response in together] == alone * 6


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ("{", "prompts are no JSON"),
        ("[" * 100_000, "prompts are no JSON"),
        ("[]", "prompts must be an object"),
        ({}, "prompts hold neither boxes nor points"),
        ({"points": [[1]]}, "[x, y]"),
        ({"points": [[900, 1]]}, "point 900,1 lies outside the image of 221x150 pixels"),
        ({"boxes": [[1, 1, 900, 9]]}, "box corner 900,9 lies outside"),
        ('{"points": [[NaN, 1]]}', "nowhere near an image"),
        ({"points": [[1, 1]] * 300}, "300 prompts are too many: send at most 256"),
        (
            {"points": [[1, 1]] * 300, "labels": [1] * 300},
            "300 points are too many: send at most 256",
        ),
        ({"points": [[1, 1]], "labels": [1.5]}, "labels [1.5] must be 1 (include) or 0"),
    ],
)
def test_bad_prompts(client: TestClient, png: bytes, prompts: object, says: str) -> None:
    refused(ask(client, png, prompts), 422, says)


def refused(response: object, code: int, says: str) -> None:
    assert response.status_code == code
    assert list(response.json()) == ["error"]
    assert says in response.json()["error"]
    assert "\n" not in response.json()["error"]


def test_bad_images(client: TestClient, png: bytes) -> None:
    point = {"points": [[1, 1]]}
    refused(ask(client, b"no image", point), 422, "the image is no image that can be read")
    refused(ask(client, b"", point), 422, "it is empty")
    refused(ask(client, png[:2000], point), 422, "the image is damaged")
    large = encoded(np.zeros((500, 500, 3), np.uint8))
    refused(ask(client, large, point), 422, "has 500x500 pixels: scale it to at most 0.1 mega")
    refused(ask(client, b"x" * 300_000, point), 413, "the upload has more than 0.2 MB")
    refused(client.post("/masks"), 422, "image must be a file")
    refused(client.post("/masks", data={"image": "text"}), 422, "image must be a file")
    refused(ask(client, png, point, format="gif"), 422, "format: ")
    refused(client.get("/nowhere"), 404, "Not Found")
    refused(client.get("/masks"), 405, "Method Not Allowed")
    broken = {"content-type": "multipart/form-data; boundary=x"}
    refused(
        client.post("/masks", content=b"--x\r\nbad", headers=broken), 422, "image must be a file"
    )


def test_an_upload_is_refused_by_the_length_it_announces(client: TestClient, png: bytes) -> None:
    announced = {"content-length": "300000"}
    response = client.post("/masks", files={"image": png}, headers=announced)
    refused(response, 413, "the upload has more than 0.2 MB")


def test_an_upload_that_announces_nothing_is_counted(client: TestClient) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="i"\r\n\r\n'
    form = {"content-type": "multipart/form-data; boundary=x"}
    response = client.post("/masks", content=iter([part, b"x" * 300_000]), headers=form)
    assert "content-length" not in response.request.headers
    refused(response, 413, "the upload has more than 0.2 MB")


@pytest.mark.parametrize("what", ["engine.decode_image", "engine.masks_of", "app.decode_mask"])
def test_no_three_requests_work_at_full_size_at_once(
    client: TestClient, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    three = threading.Barrier(3)
    monkeypatch.setattr(f"expedit_sam.serve.{what}", lambda *_: three.wait(timeout=0.3))
    point = {"points": [[1, 1]]}
    with ThreadPoolExecutor(3) as clients:
        asked = [
            clients.submit(ask, client, encoded(np.roll(photo, shift)), point, format="png")
            for shift in range(3)
        ]
    assert {type(one.exception()) for one in asked} == {threading.BrokenBarrierError}


def test_the_network_does_not_run_ahead_of_those_who_make_masks(
    engine: Engine, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    fourth = threading.Event()
    ask = engine._network.ask

    def counted(*given: object) -> list:
        asked.append(given)
        if len(asked) == 4:
            fourth.set()
        return ask(*given)

    ahead: list[bool] = []
    monkeypatch.setattr(engine._network, "ask", counted)
    monkeypatch.setattr(
        "expedit_sam.serve.engine.masks_of", lambda *_: ahead.append(fourth.wait(0.3)) or []
    )
    with held(engine):
        questions = [engine.ask(png, [POINT]) for _ in range(8)]
    assert [question.answered.result(PATIENCE) for question in questions] == [[]] * 8
    assert not ahead[0]
    until(lambda: not any(question.work.answers for question in questions))


def test_nothing_is_decoded_once_the_service_stops(
    engine: Engine, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expedit_sam.serve.engine.decode_image", None)
    engine.stop()
    with pytest.raises(Stopping):
        engine.ask(png, [POINT])


def test_an_error_is_its_own_question_s(
    engine: Engine, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = engine._network.encode

    def fails(works: list) -> list:
        if any(work.size == (9, 9) for work in works):
            raise RuntimeError("out of\nmemory")
        return encode(works)

    monkeypatch.setattr(engine._network, "encode", fails)
    pictures = [encoded(photo[:size, :size]) for size in (8, 9, 10, 11)]
    with (
        TestClient(build_app(engine, 0.2), raise_server_exceptions=False) as client,
        ThreadPoolExecutor(4) as clients,
        held(engine) as begun,
    ):
        asked = [clients.submit(ask, client, pictures[0], {"points": [[1, 1]]})]
        assert begun.wait(PATIENCE)
        asked += [clients.submit(ask, client, one, {"points": [[1, 1]]}) for one in pictures[1:]]
        until(lambda: engine.waiting == 3)  # which are a group
    answers = [one.result() for one in asked]
    assert [one.status_code for one in answers] == [200, 500, 200, 200]
    refused(answers[1], 500, "the service failed: its log says why")


def test_prompts_come_before_everything_which_goes_alone(
    engine: Engine, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = engine._network.encode
    together: list[int] = []
    monkeypatch.setattr(
        engine._network, "encode", lambda works: together.append(len(works)) or encode(works)
    )
    begun: list[Question] = []
    with held(engine) as has_begun:
        first = engine.ask(encoded(photo), [POINT])
        assert has_begun.wait(PATIENCE)
        pictures = [encoded(np.roll(photo, shift)) for shift in range(1, 6)]
        everything = [engine.ask(picture, None) for picture in pictures[:3]]
        prompted = [engine.ask(picture, [POINT]) for picture in pictures[3:]]
        for question in [*everything, *prompted]:
            question.answered.add_done_callback(partial(_note, begun, question))
    for question in [first, *everything, *prompted]:
        question.answered.result(PATIENCE)
    assert begun == [*prompted, *everything]
    assert together == [1, 2, 1, 1, 1]


def _note(begun: list, question: object, _: object) -> None:
    begun.append(question)


def test_whoever_comes_when_all_room_is_taken_is_refused(engine: Engine, png: bytes) -> None:
    with held(engine) as begun:
        engine.ask(png, [POINT])
        assert begun.wait(PATIENCE)
        waiting = [engine.ask(png, [POINT]) for _ in range(8)]
        with pytest.raises(Busy):
            engine.ask(png, [POINT])
        waiting[0].answered.cancel()
        last = engine.ask(png, [POINT])
    last.answered.result(PATIENCE)


@pytest.mark.parametrize("option", ["--megabytes", "--megapixels"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0"])
def test_sizes_that_are_none(option: str, value: str) -> None:
    result = CliRunner().invoke(app, ["serve", option, value])
    assert result.exit_code == 2
    assert result.stderr == f"error: {option} {value} is no size: give a number above 0\n"


def test_health_metrics_and_page(client: TestClient, png: bytes) -> None:
    ask(client, png, {"points": [[1, 1]]})
    everything = ask(client, png).json()["masks"]
    assert client.get("/health").json()["status"] == "ok"
    figures = client.get("/metrics").text
    assert f"expedit_sam_masks_total {1 + len(everything)}.0" in figures
    assert "expedit_sam_cache_misses 1.0" in figures
    assert "expedit_sam_cache_hits 1.0" in figures
    for kind in ("prompts", "everything"):
        assert f'expedit_sam_seconds_count{{of="{kind}"}} 1.0' in figures
        assert f'expedit_sam_seconds_bucket{{le="250.0",of="{kind}"}} 1.0' in figures
    page = client.get("/").text
    assert "POST /masks" in page
    assert "Each box is a prompt" in page
    assert "http" not in page.replace("http-equiv", "")  # nothing from elsewhere


@pytest.mark.slow
def test_whatever_is_sent_is_no_fault_of_ours(engine: Engine) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings

    schema = schemathesis.openapi.from_asgi("/openapi.json", build_app(engine, megabytes=0.2))

    @given(case=schema["/masks"]["POST"].as_strategy())
    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    def fuzz(case: object) -> None:
        response = case.call()
        assert response.status_code < 500
        assert "Traceback" not in response.text

    fuzz()
