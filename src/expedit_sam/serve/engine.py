"""One network for many clients: what waits is encoded together, and embeddings are kept."""

from __future__ import annotations

import hashlib
import io
import itertools
import threading
from bisect import insort
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from expedit_sam.allocator import give_back
from expedit_sam.batch.network import Network
from expedit_sam.batch.prompts import Prompt
from expedit_sam.batch.stages import Work, masks_of, read_one
from expedit_sam.batch.task import Task
from expedit_sam.errors import InputError
from expedit_sam.everything.recommended import RECOMMENDED
from expedit_sam.images import decode_image
from expedit_sam.model.sam import Sam
from expedit_sam.prompts import check_inside

_QUESTIONS_AT_ONCE = 8  # whose images are encoded together, where a device gains by it
_MASK_THREADS = 2  # making masks takes much memory
_Returned = TypeVar("_Returned")


def two_at_a_time(function: Callable[..., _Returned]) -> Callable[..., _Returned]:
    """Let at most two threads run a function that takes much memory; freed memory is given back."""
    turns = threading.BoundedSemaphore(2)

    @wraps(function)
    def limited(*given: Any) -> _Returned:
        with turns:
            try:
                return function(*given)
            finally:
                give_back()

    return limited


class Busy(Exception):  # noqa: N818  (a state, not an error)
    """More requests wait than there is room for."""


class Stopping(Exception):  # noqa: N818  (a state, not an error)
    """The service is about to end."""


@dataclass(frozen=True)
class Encoded:
    """An image as the network knows it.

    Attributes:
        size: (H, W) of the image.
        input_size: (H, W) that it was scaled to for the network.
        features: 1xCxhxw embedding.
    """

    size: tuple[int, int]
    input_size: tuple[int, int]
    features: Tensor


@dataclass(order=True)
class Question:
    """A request that waits for the network.

    Attributes:
        urgency: decides the order: prompts first, because they take a moment, then by number.
        key: hash of the image file.
        work: the image and its prompts.
        task: what is asked.
        encoded: the image's embedding, once there is one.
        answered: gives the masks (``schema.MASK``); cancel it where nobody waits for it any more.
    """

    urgency: tuple[bool, int]
    key: str = field(compare=False)
    work: Work = field(compare=False)
    task: Task = field(compare=False)
    encoded: Encoded | None = field(compare=False, default=None)
    answered: Future[list[dict[str, Any]]] = field(compare=False, default_factory=Future)


class Engine:
    """Asks a network on behalf of many threads.

    Arguments:
        sam: the network.
        model, speed: what answers call them.
        megapixels: of the largest image that is taken.
        kept: how many images' embeddings are kept, those asked for last.
        waiting: how many requests may wait.
    """

    def __init__(
        self, sam: Sam, model: str, speed: str, megapixels: float, kept: int, waiting: int
    ) -> None:
        self.prompted = Task.of(sam, model, speed)
        self.everything = replace(self.prompted, everything=dict(RECOMMENDED[model]))
        self.hits = self.misses = 0
        self._network = Network(sam, self.prompted)
        self._megapixels, self._kept = megapixels, kept
        self._encoded: OrderedDict[str, Encoded] = OrderedDict()
        self._lock = threading.Lock()
        self._room = waiting
        self._asked = threading.Condition()
        self._questions: list[Question] = []  # that have not begun, the most urgent first
        self._stopping = False
        self._number = itertools.count()
        self._mask_threads = ThreadPoolExecutor(_MASK_THREADS)
        # Low-res logits are large: the network waits while too many are still to become masks.
        self._answers_without_masks = threading.BoundedSemaphore(_MASK_THREADS + 1)
        self._thread = threading.Thread(target=self._answer_until_stopped, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests that wait for the network."""
        with self._asked:
            return sum(not question.answered.cancelled() for question in self._questions)

    def check_room(self) -> None:
        """See that there is room for one more request.

        Raises:
            Busy: too many requests wait.
            Stopping: the service takes no more.
        """
        if self._stopping:
            raise Stopping
        if self.waiting >= self._room:
            raise Busy

    def ask(self, image: bytes, prompts: list[Prompt] | None) -> Question:
        """Queue a request for masks.

        Arguments:
            image: an image file's bytes.
            prompts: in pixels of the image; None asks for everything.

        Raises:
            InputError: it is no image, too large, or a prompt lies outside.
            Busy: too many requests wait.
            Stopping: the service takes no more.
        """
        task = self.everything if prompts is None else self.prompted
        key = hashlib.sha256(image).hexdigest()
        known = self._find(key)
        if known is not None:
            work = Work(size=known.size, sizes=[known.input_size], prompts=prompts or [])
        else:
            work = self._read(image, prompts)
        if work.error is not None:
            raise InputError(work.error)
        _check_inside(work)
        urgency = (prompts is None, next(self._number))
        question = Question(urgency, key, work, task, known)
        with self._asked:
            self.check_room()
            # Forget those whose clients have left, and so their images.
            self._questions = [one for one in self._questions if not one.answered.cancelled()]
            insort(self._questions, question)
            self._asked.notify()
        return question

    def stop(self) -> None:
        """Refuse the requests that wait, and all to come."""
        with self._asked:
            self._stopping = True
            refused, self._questions = self._questions, []
            self._asked.notify()
        for question in refused:
            if question.answered.set_running_or_notify_cancel():
                question.answered.set_exception(Stopping())

    def join(self) -> None:
        """Wait, after ``stop``, for the requests that are being answered."""
        self._thread.join()
        self._mask_threads.shutdown()

    @two_at_a_time
    def _read(self, image: bytes, prompts: list[Prompt] | None) -> Work:
        """A new image, scaled for the network."""
        self.check_room()  # again: others may have come while this thread waited for its turn

        def load(_: Any) -> tuple[np.ndarray, list[Prompt] | None]:
            return decode_image(io.BytesIO(image), "the image", self._megapixels), prompts

        return read_one({}, self.prompted, load)

    def _find(self, key: str) -> Encoded | None:
        with self._lock:
            found = self._encoded.get(key)
            if found is not None:
                self._encoded.move_to_end(key)
            return found

    def _keep(self, key: str, encoded: Encoded) -> None:
        with self._lock:
            self._encoded[key] = encoded
            self._encoded.move_to_end(key)
            while len(self._encoded) > self._kept:
                self._encoded.popitem(last=False)

    def _answer_until_stopped(self) -> None:
        while not self._stopping:
            questions = self._begin()
            with suppress(Exception):  # each is then encoded alone, and gets its own error
                self._encode(questions)
            for question in questions:
                self._answer(question)

    def _begin(self) -> list[Question]:
        """Wait for questions and take those that are answered next, but not the cancelled ones."""
        with self._asked:
            self._asked.wait_for(lambda: self._questions or self._stopping)
            prompted = [
                one for one in self._questions[:_QUESTIONS_AT_ONCE] if one.task is self.prompted
            ]
            # Everything mode goes alone, so that prompts never wait for two such requests.
            questions = prompted or self._questions[:1]
            del self._questions[: len(questions)]
        return [one for one in questions if one.answered.set_running_or_notify_cancel()]

    def _encode(self, questions: list[Question]) -> None:
        """Embeddings of all images that have none, each once."""
        new: dict[str, Work] = {}
        for question in questions:
            question.encoded = question.encoded or self._find(question.key)
            if question.encoded is None:
                new.setdefault(question.key, question.work)
        features = self._network.encode(list(new.values()))
        self.misses += len(new)
        self.hits += len(questions) - len(new)
        fresh = {
            key: Encoded(work.size, work.sizes[0], embedding)
            for (key, work), embedding in zip(new.items(), features, strict=True)
        }
        for key, encoded in fresh.items():
            self._keep(key, encoded)
        for question in questions:
            question.encoded = question.encoded or fresh[question.key]

    def _answer(self, question: Question) -> None:
        self._answers_without_masks.acquire()
        try:
            if question.encoded is None:
                self._encode([question])
            assert question.encoded is not None
            features = [question.encoded.features]
            question.work.answers = self._network.ask(question.work, features, question.task)
        except Exception as error:  # goes to whoever asked
            self._answers_without_masks.release()
            question.answered.set_exception(error)
        else:
            self._mask_threads.submit(self._make_masks, question)

    def _make_masks(self, question: Question) -> None:
        try:
            masks = masks_of(question.work, question.task)
        except Exception as error:  # goes to whoever asked
            question.answered.set_exception(error)
        else:
            question.answered.set_result(masks)
        finally:
            question.work.answers = []
            self._answers_without_masks.release()
            give_back()


def _check_inside(work: Work) -> None:
    """Raise ``InputError`` if a prompt lies outside of the image."""
    for prompt in work.prompts:
        check_inside(np.reshape(prompt["points"], (-1, 2)), work.size, "point")
        if prompt["box"] is not None:
            check_inside(np.reshape(prompt["box"], (2, 2)), work.size, "box corner")
