"""Nets and sessions that this process holds, so that a worker loads each once however many chunks it runs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, TypeVar, cast

__all__ = ["hold", "let_go", "passing"]

_MOST = 16
_HeldT = TypeVar("_HeldT")
_held: OrderedDict[Hashable, Any] = OrderedDict()
_building: dict[Hashable, Lock] = {}
_lock = Lock()


def hold(key: Hashable, build: Callable[[], _HeldT]) -> _HeldT:
    """What `build` made for `key`, made once even when several threads ask at the same time; the least used goes."""
    with _lock:
        if key in _held:
            _held.move_to_end(key)
            return cast("_HeldT", _held[key])
        gate = _building.setdefault(key, Lock())
    with gate:
        with _lock:
            if key in _held:
                return cast("_HeldT", _held[key])
        made = build()
        with _lock:
            _held[key] = made
            _building.pop(key, None)
            while len(_held) > _MOST:
                _held.popitem(last=False)
    return made


def let_go(part: Hashable) -> None:
    """Forgets everything whose key is a tuple with `part` in it: the digest of a model, say."""
    with _lock:
        for key in [key for key in _held if isinstance(key, tuple) and part in key]:
            del _held[key]


@contextmanager
def passing() -> Iterator[None]:
    """Lets go, on leaving, of what was made inside."""
    with _lock:
        before = set(_held)
    try:
        yield
    finally:
        with _lock:
            for key in set(_held) - before:
                del _held[key]
