"""The service as it listens, with more clients than it has threads."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import requests

from expedit_sam.model.sam import Sam
from tests.serve.conftest import PATIENCE, until

pytest.importorskip("fastapi")

from expedit_sam.listening import listen
from expedit_sam.serve.app import build_app
from expedit_sam.serve.engine import Engine
from expedit_sam.serve.server import Server

WAITING = 50  # more than the 40 threads that plain functions share


class Service:
    """A server in a thread, whose network begins when ``go`` is set."""

    def __init__(self, sam: Sam, png: bytes) -> None:
        self.engine = Engine(sam, "vit_s", "exact", megapixels=0.1, kept=2, waiting=WAITING)
        self.go, self.begun = threading.Event(), threading.Event()
        self.png = png
        self._encode = self.engine._network.encode
        self.engine._network.encode = self._held  # type: ignore[method-assign]
        listener = listen("127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.server = Server(build_app(self.engine, megabytes=1), self.engine)
        self.thread = threading.Thread(target=self.server.run, args=[[listener]])
        self.clients = ThreadPoolExecutor(WAITING + 20)
        self.thread.start()

    def _held(self, works: list) -> list:
        self.begun.set()
        assert self.go.wait(PATIENCE)
        return self._encode(works)

    def ask(self, timeout: float = PATIENCE) -> requests.Response:
        form = {"prompts": '{"points": [[9, 9]]}'}
        return requests.post(
            f"{self.address}/masks", files={"image": self.png}, data=form, timeout=timeout
        )

    def ask_first(self) -> Future[requests.Response]:
        """What the network has begun, and is kept from."""
        first = self.clients.submit(self.ask)
        assert self.begun.wait(PATIENCE)
        return first

    def ask_often(self, times: int) -> list[Future[requests.Response]]:
        return [self.clients.submit(self.ask) for _ in range(times)]

    def get(self, path: str) -> requests.Response:
        return requests.get(self.address + path, timeout=PATIENCE)

    def stop(self) -> None:
        self.go.set()
        self.server.should_exit = True
        self.thread.join(PATIENCE)
        self.clients.shutdown()


@pytest.fixture
def service(tiny_sam: Sam, png: bytes) -> Iterator[Service]:
    service = Service(tiny_sam, png)
    yield service
    service.stop()


def test_many_wait_and_the_surplus_is_refused(service: Service) -> None:
    service.ask_first()
    asked = service.ask_often(WAITING)
    until(lambda: service.engine.waiting == WAITING)
    assert service.get("/health").json()["waiting"] == WAITING
    assert f"expedit_sam_waiting {WAITING}.0" in service.get("/metrics").text
    assert service.get("/").status_code == 200
    surplus = [one.result() for one in service.ask_often(3)]
    assert [one.status_code for one in surplus] == [429] * 3
    service.go.set()
    assert Counter(one.result().status_code for one in asked) == {200: WAITING}


def test_whoever_has_left_is_not_answered(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = service.ask_first()
    answered = []
    ask = service.engine._network.ask
    monkeypatch.setattr(
        service.engine._network, "ask", lambda *given: answered.append(1) or ask(*given)
    )
    with pytest.raises(requests.Timeout):
        service.ask(timeout=1)
    until(lambda: service.engine.waiting == 0)
    service.go.set()
    assert first.result().status_code == 200
    assert service.ask().status_code == 200
    assert len(answered) == 2


def test_stopping_refuses_what_has_not_begun(
    service: Service, capfd: pytest.CaptureFixture[str]
) -> None:
    first = service.ask_first()
    asked = service.ask_often(WAITING)
    until(lambda: service.engine.waiting == WAITING)
    service.server.should_exit = True
    answers = [one.result() for one in asked]
    assert {one.status_code for one in answers} == {503}
    assert answers[0].json() == {"error": "the service is stopping"}
    service.go.set()
    assert first.result().status_code == 200
    service.stop()
    assert capfd.readouterr().err == ""


def test_stopping_at_once_leaves_no_traceback(
    service: Service, capfd: pytest.CaptureFixture[str]
) -> None:
    first = service.ask_first()
    service.server.should_exit = service.server.force_exit = True
    assert first.result().status_code == 503
    service.stop()
    assert not service.engine._thread.is_alive()  # Python would abort
    assert capfd.readouterr().err == ""
