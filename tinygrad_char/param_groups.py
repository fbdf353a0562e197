"""The groups of an optimizer: parameters that share hyperparameters."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from tinygrad_char.tensor import Tensor

if TYPE_CHECKING:
    from tinygrad_char.optimizer import Optimizer


class Group(MutableMapping[str, Any]):
    """A group as a dict: "params" and the hyperparameters, which the next step reads.

    `group["lr"] = 0.1` is checked at once, as when the optimizer was made.

    Attributes
    ----------
    options
        The hyperparameters.
    members
        The parameters, those among them that are frozen too.
    first, last
        The range of those in the flat buffer among the optimizer's `parameters`.

    Raises
    ------
    ValueError
        An unknown hyperparameter, or one out of range, is written, or "params" is.
    TypeError
        A key is deleted.
    """

    def __init__(
        self, optimizer: Optimizer, options: dict[str, Any], members: Sequence[Tensor]
    ) -> None:
        self._optimizer = weakref.ref(optimizer)
        self.options = options
        self.members = tuple(members)
        self.first = self.last = 0

    def __getitem__(self, name: str) -> Any:
        return self.members if name == "params" else self.options[name]

    def __setitem__(self, name: str, value: Any) -> None:
        optimizer = self._optimizer()
        kind = "param_groups" if optimizer is None else type(optimizer).__name__
        if name == "params":
            raise ValueError(
                f"{kind}: the parameters of a group stay the same; add others with add_param_group"
            )
        if name not in self.options:
            raise ValueError(
                f"{kind}: unknown group option {name!r}, expected one of {list(self.options)}"
            )
        if optimizer is not None:
            if name in optimizer.fixed and value != self.options[name]:
                raise ValueError(
                    f"{kind}: {name!r} of a group stays {self.options[name]!r}; make another "
                    "optimizer for another one"
                )
            optimizer.check({**self.options, name: value})
        self.options[name] = value

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"a group keeps its options: {name!r} cannot be deleted")

    def __iter__(self) -> Iterator[str]:
        yield "params"
        yield from self.options

    def __len__(self) -> int:
        return 1 + len(self.options)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # a group without its optimizer is a dict

    def __repr__(self) -> str:
        shapes = ", ".join(str(each.shape) for each in self.members)
        return f"Group(params=[{shapes}], {', '.join(f'{k}={v}' for k, v in self.options.items())})"
