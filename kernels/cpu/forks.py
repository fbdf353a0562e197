"""What a forked process has to have anew: locks that other threads held, and threads themselves.

Of all threads a forked process has only the one that forked. A lock that another one held stays
taken for ever, and work that was given to another one is never done.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if sys.version_info >= (3, 12) or TYPE_CHECKING:
    from functools import cached_property
else:

    class cached_property:  # noqa: N801 (in the place of a function)
        """An attribute that is computed when it is first read; without functools' lock.

        Two threads that read it first may both compute it.
        """

        def __init__(self, compute: Callable[[Any], Any]) -> None:
            self._compute, self.__doc__ = compute, compute.__doc__

        def __set_name__(self, owner: type, name: str) -> None:
            self._name = name

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            if instance is None:
                return self
            value = instance.__dict__[self._name] = self._compute(instance)
            return value


__all__ = ["cached_property", "in_forked_children", "renew_in_forked_children"]


class Renewable(Protocol):
    """Has something that a forked process cannot use."""

    def renew(self) -> None:
        """Make that anew."""


_renewed: weakref.WeakSet[Renewable] = weakref.WeakSet()


def in_forked_children(renew: Callable[[], None], lock: threading.Lock | None = None) -> None:
    """Have a function called in every forked process, before anything else happens there.

    With `lock` held, which then also waits, at every fork, for whoever holds it to be done.
    """
    if not hasattr(os, "register_at_fork"):
        return
    if lock is None:
        os.register_at_fork(after_in_child=renew)
        return

    def renew_and_release() -> None:
        try:
            renew()
        finally:
            lock.release()

    os.register_at_fork(
        before=lock.acquire, after_in_parent=lock.release, after_in_child=renew_and_release
    )


def renew_in_forked_children(owner: Renewable) -> None:
    """Have `owner.renew()` called in every forked process, for as long as there is an owner."""
    _renewed.add(owner)


def _renew() -> None:
    for owner in list(_renewed):
        owner.renew()


in_forked_children(_renew)
