"""Optimizers on flat buffers, gradient clipping, and learning-rate schedules.

An optimizer moves its parameters into one flat buffer, of which they become views, and their
gradients into another, group after group; so a step is one pass over memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from kernels.array import Array
from tinygrad_char.tensor import Tensor

Schedule = Callable[[int], float]


@dataclass
class Group:
    """Parameters that share hyperparameters: a range of the flat buffer."""

    options: dict[str, float]
    first: int  # position of the first parameter
    last: int  # one past the last


class Optimizer:
    """Shared by the optimizers: the flat buffers, the groups, and the state.

    Parameters
    ----------
    parameters
        Tensors, or groups: dicts with "params" and options that differ, such as weight_decay.
    options
        The hyperparameters of groups that do not set their own.

    Raises
    ------
    ValueError
        No parameter, one given twice, an unknown option, or a hyperparameter out of range.
    """

    slots: ClassVar[tuple[str, ...]] = ()
    """The names of the flat state buffers, which start as zeros."""

    def __init__(
        self, parameters: Iterable[Tensor] | Iterable[Mapping[str, Any]], **options: Any
    ) -> None:
        entries: list[Any] = list(parameters)
        if not entries:
            raise ValueError(f"{type(self).__name__}: no parameters to optimize")
        if isinstance(entries[0], Tensor):
            entries = [{"params": entries}]
        self.parameters: list[Tensor] = []
        self.groups: list[Group] = []
        for entry in entries:
            given = {name: value for name, value in entry.items() if name != "params"}
            unknown = sorted(set(given) - set(options))
            if unknown:
                raise ValueError(f"{type(self).__name__}: unknown group option {unknown[0]!r}")
            members = list(entry["params"])
            first = len(self.parameters)
            self.parameters.extend(members)
            group = Group({**options, **given}, first, len(self.parameters))
            self.check(group.options)
            if members:
                self.groups.append(group)
        self.step_count = 0
        self._flatten()

    def check(self, options: dict[str, Any]) -> None:
        """Raise ValueError that names a hyperparameter out of range."""
        name = type(self).__name__
        for option in ("lr", "weight_decay", "eps"):
            value = options.get(option, 0.0)
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name}: {option}={value}, expected a finite number >= 0")
        for value in (*options.get("betas", ()), options.get("momentum", 0.0)):
            if not 0 <= value < 1:
                raise ValueError(f"{name}: betas and momentum must be in [0, 1), got {value}")

    def _flatten(self) -> None:
        name = type(self).__name__
        first = self.parameters[0]
        if len({id(each) for each in self.parameters}) != len(self.parameters):
            raise ValueError(f"{name}: a parameter was given twice")
        for position, each in enumerate(self.parameters):
            if not each.is_leaf or not each.requires_grad:
                raise ValueError(f"{name}: tensor {position} {each.shape} is no trainable leaf")
            if each.dtype != first.dtype or each.backend is not first.backend:
                raise ValueError(
                    f"{name}: parameters of {first.dtype} on {first.device} and {each.dtype} on "
                    f"{each.device}; expected one dtype and device"
                )
        xp = first.backend.xp
        self.offsets = np.cumsum([0] + [each.size for each in self.parameters]).tolist()
        self.flat: Array = xp.empty(self.offsets[-1], dtype=first.dtype)
        self.flat_grad: Array = xp.zeros_like(self.flat)
        self.state: dict[str, Array] = {slot: xp.zeros_like(self.flat) for slot in self.slots}
        self._views = []
        for each, start in zip(self.parameters, self.offsets, strict=False):
            part = slice(start, start + each.size)
            view = self.flat[part].reshape(each.shape)
            view[...] = each.array
            each.array = view
            each.version.value += 1
            each.grad_buffer = self.flat_grad[part].reshape(each.shape)
            if each.grad is not None:
                each.grad_buffer[...] = each.grad.array
                each.grad = each._result(each.grad_buffer)
            self._views.append((view, each.grad_buffer))

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for each in self.parameters:
            each.grad = None

    def _collect(self) -> None:
        """Make sure that parameters and gradients are where the flat buffers have them."""
        for position, (each, (view, buffer)) in enumerate(
            zip(self.parameters, self._views, strict=True)
        ):
            if each.array is not view:
                raise RuntimeError(
                    f"{type(self).__name__}: parameter {position} {each.shape} has left this "
                    "optimizer's buffer (moved to a device, converted, or given to another "
                    "optimizer); make the optimizer afterwards, and one for each parameter"
                )
            if each.grad is not None and each.grad.array is not buffer:
                if each.grad.shape != each.shape or each.grad.dtype != each.dtype:
                    raise ValueError(
                        f"{type(self).__name__}: gradient {each.grad.shape} {each.grad.dtype} for "
                        f"parameter {position} {each.shape} {each.dtype}"
                    )
                buffer[...] = each.grad.array
                each.grad = each._result(buffer)

    def _spans(self, group: Group) -> Iterator[slice]:
        """Yield the longest ranges of the flat buffer whose parameters all have a gradient."""
        start = None
        for position in range(group.first, group.last):
            if self.parameters[position].grad is not None:
                start = self.offsets[position] if start is None else start
            elif start is not None:
                yield slice(start, self.offsets[position])
                start = None
        if start is not None:
            yield slice(start, self.offsets[group.last])

    def grad_norm(self) -> float:
        """Return the Euclidean norm of all gradients together."""
        self._collect()
        total = 0.0
        for group in self.groups:
            for span in self._spans(group):
                total += sum(float(part @ part) for part in _chunks(self.flat_grad[span]))
        return math.sqrt(total)

    def step(self, *, max_norm: float | None = None) -> float | None:
        """Update every parameter that has a gradient.

        With `max_norm`, the gradients are first scaled to have together at most this norm, and
        the norm before that is returned. A norm that is not finite updates nothing.
        """
        norm = None
        scale = 1.0
        if max_norm is None:
            self._collect()
        else:
            norm = self.grad_norm()
            if not math.isfinite(norm):
                return norm
            scale = min(1.0, max_norm / (norm + 1e-6))
        self.step_count += 1
        for group in self.groups:
            for span in self._spans(group):
                self.update(span, group.options, scale)
        for each in self.parameters:
            each.version.value += 1
        return norm

    def update(self, span: slice, options: dict[str, Any], scale: float) -> None:
        """Update a range of the flat buffer, with its gradients times `scale`."""
        raise NotImplementedError(f"{type(self).__name__} defines no update")

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of every group."""
        for group in self.groups:
            group.options["lr"] = lr
            self.check(group.options)

    def state_dict(self) -> dict[str, Any]:
        """Return the step count and the flat state buffers (shared, not copied)."""
        backend = self.parameters[0].backend
        return {
            "step": self.step_count,
            **{slot: backend.to_numpy(array) for slot, array in self.state.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy a state in; ValueError that names what is missing or of another shape."""
        backend = self.parameters[0].backend
        for slot, array in self.state.items():
            if slot not in state or state[slot].shape != array.shape:
                got = state[slot].shape if slot in state else "nothing"
                raise ValueError(f"optimizer state {slot!r}: got {got}, expected {array.shape}")
        for slot, array in self.state.items():
            array[...] = backend.from_numpy(np.asarray(state[slot]))
        self.step_count = int(state["step"])


def _chunks(array: Array, size: int = 1 << 16) -> Iterator[Array]:
    return (array[start : start + size] for start in range(0, array.size, size))


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, see kernels/sgd.py."""

    slots = ("velocity",)

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.0,
        *,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            parameters, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
        )

    def update(self, span: slice, options: dict[str, Any], scale: float) -> None:
        """Update a range of the flat buffer."""
        self.parameters[0].backend.sgd.update(
            self.flat[span],
            self.flat_grad[span],
            self.state["velocity"][span] if options["momentum"] else None,
            step=self.step_count,
            grad_scale=scale,
            **options,
        )


class Adam(Optimizer):
    """Adam, with weight decay as an addition to the gradient, see kernels/adamw.py."""

    slots = ("exp_avg", "exp_avg_sq")
    decoupled: ClassVar[bool] = False

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def update(self, span: slice, options: dict[str, Any], scale: float) -> None:
        """Update a range of the flat buffer."""
        self.parameters[0].backend.adamw.update(
            self.flat[span],
            self.flat_grad[span],
            self.state["exp_avg"][span],
            self.state["exp_avg_sq"][span],
            step=self.step_count,
            decoupled=self.decoupled,
            grad_scale=scale,
            **options,
        )


class AdamW(Adam):
    """Adam with weight decay taken from the parameters directly, see kernels/adamw.py."""

    decoupled = True

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, lr, betas, eps, weight_decay)


def decay_groups(parameters: Iterable[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups: matrices with weight decay, vectors (biases, norms) without."""
    tensors = list(parameters)
    groups = [
        {"params": [each for each in tensors if each.ndim >= 2], "weight_decay": weight_decay},
        {"params": [each for each in tensors if each.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale the gradients in place to have together at most `max_norm`; return the norm before.

    Optimizers do the same in `step(max_norm=...)` without a pass of its own.
    """
    grads = [each.grad.array for each in parameters if each.grad is not None]
    norm = math.sqrt(sum(float((g * g).sum()) for g in grads))
    scale = max_norm / (norm + 1e-6)
    if scale < 1:
        for g in grads:
            g *= g.dtype.type(scale)
    return norm


def constant(lr: float) -> Schedule:
    """Return the schedule that gives `lr` at every step."""
    return lambda step: lr


def warmup_cosine(lr: float, warmup: int, total: int, floor: float) -> Schedule:
    """Return a schedule: linear warm-up, then a cosine down to `floor` (arXiv:1608.03983).

    Steps count from 0. Step i < warmup gives lr (i + 1) / (warmup + 1); then
    floor + (lr - floor) (1 + cos(pi (i - warmup) / (total - warmup))) / 2; after `total`, floor.
    """

    def schedule(step: int) -> float:
        if step < warmup:
            return lr * (step + 1) / (warmup + 1)
        if step >= total:
            return floor
        progress = (step - warmup) / (total - warmup)
        return floor + (lr - floor) * (1 + math.cos(math.pi * progress)) / 2

    return schedule
