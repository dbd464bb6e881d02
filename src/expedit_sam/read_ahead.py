"""Work on the next values while the last one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Value = TypeVar("Value")
_END: Any = object()


def read_ahead(values: Iterable[Value], ahead: int) -> Iterator[Value]:
    """The values in their order, the next ``ahead`` of them fetched by a thread meanwhile.

    An exception of ``values`` is raised where its value would have come.
    """
    iterator = iter(values)
    with ThreadPoolExecutor(1) as thread:
        waiting: deque[Future[Value]] = deque(
            thread.submit(next, iterator, _END) for _ in range(ahead)
        )
        try:
            while (value := waiting.popleft().result()) is not _END:
                waiting.append(thread.submit(next, iterator, _END))
                yield value
        finally:
            thread.shutdown(cancel_futures=True)  # nobody wants the rest
