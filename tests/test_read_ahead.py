import threading

import pytest

from expedit_sam.read_ahead import read_ahead


def test_values_come_in_their_order() -> None:
    assert list(read_ahead(range(7), 3)) == list(range(7))
    assert list(read_ahead([], 2)) == []


def test_the_next_values_are_fetched_while_one_is_used() -> None:
    third = threading.Event()

    def values():
        yield 1
        yield 2
        third.set()
        yield 3

    for value in read_ahead(values(), 2):
        if value == 1:
            assert third.wait(10)  # fetched although nobody has asked for it
            break


def test_an_exception_comes_where_its_value_would_have() -> None:
    def values():
        yield 1
        raise OSError("gone")

    fetched = read_ahead(values(), 4)
    assert next(fetched) == 1
    with pytest.raises(OSError, match="gone"):
        next(fetched)


def test_what_nobody_wants_any_more_is_not_fetched() -> None:
    fetched, go_on = [], threading.Event()

    def values():
        for number in range(100):
            fetched.append(number)
            if number > 0:
                go_on.wait(10)
            yield number

    ahead = read_ahead(values(), 8)
    assert next(ahead) == 0
    threading.Timer(0.05, go_on.set).start()
    ahead.close()
    assert fetched in ([0], [0, 1])
