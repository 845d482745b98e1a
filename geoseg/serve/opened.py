"""What a service keeps between two requests: open files, and answers that took some time to make. All of it bounded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

__all__ = ["Answers", "Opened", "fingerprint"]

T = TypeVar("T")


def fingerprint(path: Path) -> str:
    """What tells this version of a file from the next.

    Raises:
        OSError: It is gone.
    """
    found = path.stat()
    return f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"


class Opened(Generic[T]):
    """The last few things that were opened; the one that was not asked for longest is forgotten first."""

    def __init__(self, most: int, weigh: Callable[[T], int] = lambda _: 1) -> None:
        """Nothing is open yet; together they will weigh at most `most`, or be one alone."""
        self._most, self._weigh, self._weight = most, weigh, 0
        self._lock = threading.Lock()
        self._known: OrderedDict[Hashable, T] = OrderedDict()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._known)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gave for a key, now or before; two threads that ask at once may each make one.

        >>> opened = Opened(most=1)
        >>> [opened.get(key, lambda: key * times) for times, key in enumerate("aaba", 1)]
        ['a', 'a', 'bbb', 'aaaa']
        """
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        made = make()
        with self._lock:
            if key in self._known:
                self._weight -= self._weigh(self._known.pop(key))
            self._known[key] = made
            self._weight += self._weigh(made)
            while self._weight > self._most and len(self._known) > 1:
                self._weight -= self._weigh(self._known.popitem(last=False)[1])
        return made


class Answers:
    """Answers that were given, as far as there is room."""

    def __init__(self, room: int) -> None:
        """None yet; together they take at most `room` bytes."""
        self._room = room
        self._lock = threading.Lock()
        self._known: OrderedDict[Hashable, bytes] = OrderedDict()
        self._size = 0

    def get(self, key: Hashable) -> bytes | None:
        """The answer that was kept; None where there is none, any more."""
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
            return self._known.get(key)

    def keep(self, key: Hashable, answer: bytes) -> None:
        """Keeps an answer, in place of those that were not asked for longest.

        >>> answers = Answers(room=3)
        >>> answers.keep("a", b"12"), answers.keep("b", b"34"), answers.get("a"), answers.get("b")
        (None, None, None, b'34')
        """
        with self._lock:
            self._size += len(answer) - len(self._known.pop(key, b""))
            self._known[key] = answer
            while self._size > self._room:
                self._size -= len(self._known.popitem(last=False)[1])
