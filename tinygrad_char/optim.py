"""Optimizers on flat buffers, gradient clipping, and learning-rate schedules.

An optimizer moves its parameters into one flat buffer, of which they become views, and their
gradients into another, group after group; so a step is one pass over memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from kernels.array import Array
from kernels.half import FLOAT32, is_half
from tinygrad_char.tensor import Tensor

Schedule = Callable[[int], float]


@dataclass
class Group:
    """Parameters that share hyperparameters: a range of the flat buffer."""

    options: dict[str, Any]
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
    TypeError
        Something else than tensors, or dicts with "params", was given.
    """

    slots: ClassVar[tuple[str, ...]] = ()
    """The names of the flat state buffers, which start as zeros."""

    def __init__(
        self, parameters: Iterable[Tensor] | Iterable[Mapping[str, Any]], **options: Any
    ) -> None:
        entries: list[Any] = list(parameters)
        if not all(isinstance(each, Mapping) and "params" in each for each in entries):
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
        if not self.parameters:
            raise ValueError(f"{type(self).__name__}: no parameters to optimize")
        self.updates = np.zeros(len(self.parameters), np.int64)
        self._flatten()

    def check(self, options: dict[str, Any]) -> None:
        """Raise ValueError that names a hyperparameter out of range."""
        name = type(self).__name__
        for option in ("lr", "weight_decay", "eps"):
            _check_number(name, option, options.get(option, 0.0))
        betas = options.get("betas", (0.0, 0.0))
        if len(betas) != 2:
            raise ValueError(f"{name}: betas={betas}, expected two numbers")
        momentum = options.get("momentum", 0.0)
        for option, value in (("betas", betas[0]), ("betas", betas[1]), ("momentum", momentum)):
            if not 0 <= value < 1:
                raise ValueError(f"{name}: {option} has {value}, expected a number in [0, 1)")
        if options.get("nesterov") and momentum == 0:
            raise ValueError(f"{name}: nesterov=True needs a momentum above 0")

    def _flatten(self) -> None:
        name = type(self).__name__
        first = self.parameters[0]
        for position, each in enumerate(self.parameters):
            if not isinstance(each, Tensor):
                raise TypeError(
                    f"{name}: expected tensors, or dicts with 'params', got {type(each).__name__}"
                )
            if not each.is_leaf or not each.requires_grad:
                raise ValueError(f"{name}: tensor {position} {each.shape} is no trainable leaf")
            if each.dtype != first.dtype or each.backend is not first.backend:
                raise ValueError(
                    f"{name}: parameters of {first.dtype} on {first.device} and {each.dtype} on "
                    f"{each.device}; expected one dtype and device"
                )
        if len({id(each) for each in self.parameters}) != len(self.parameters):
            raise ValueError(f"{name}: a parameter was given twice")
        xp = first.backend.xp
        self.offsets = np.cumsum([0] + [each.size for each in self.parameters]).tolist()
        self.flat: Array = xp.empty(self.offsets[-1], dtype=first.dtype)
        self.flat_grad: Array = xp.zeros_like(self.flat)
        # of sixteen bits, the mean of squares would be zero below 1e-4
        dtype = FLOAT32 if is_half(self.flat) else first.dtype
        self.state: dict[str, Array] = {
            slot: xp.zeros(self.flat.shape, dtype) for slot in self.slots
        }
        self._views = []
        for each, start in zip(self.parameters, self.offsets, strict=False):
            part = slice(start, start + each.size)
            view = self.flat[part].reshape(each.shape)
            view[...] = each.array
            each.array = view
            each.version.value += 1
            each.grad_buffer = each._result(self.flat_grad[part].reshape(each.shape))
            if each.grad is not None:
                each.grad = each.grad_buffer.copy_(each.grad)
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
            if each.grad is not None and each.grad is not buffer:
                if each.grad.shape != each.shape or each.grad.dtype != each.dtype:
                    raise ValueError(
                        f"{type(self).__name__}: gradient {each.grad.shape} {each.grad.dtype} for "
                        f"parameter {position} {each.shape} {each.dtype}"
                    )
                each.grad = buffer.copy_(each.grad)

    def _spans(self, group: Group) -> Iterator[tuple[slice, int]]:
        """Yield the longest ranges of the flat buffer whose parameters all have a gradient.

        With each, the number of updates that its parameters, all of them, have had.
        """
        part = slice(group.first, group.last)
        counts = [
            None if each.grad is None else count
            for each, count in zip(self.parameters[part], self.updates[part].tolist(), strict=True)
        ]
        first = group.first
        for count, run in itertools.groupby(counts):
            last = first + len(list(run))
            if count is not None:
                yield slice(self.offsets[first], self.offsets[last]), count
            first = last

    def grad_norm(self) -> float:
        """Return the Euclidean norm of all gradients together."""
        self._collect()
        return self._norm([each for group in self.groups for each in self._spans(group)])

    def _norm(self, spans: list[tuple[slice, int]]) -> float:
        norm_of = self.parameters[0].backend.global_norm.forward
        return math.hypot(*(float(norm_of(self.flat_grad[span])) for span, _ in spans))

    def step(self, *, max_norm: float | None = None) -> float | None:
        """Update every parameter that has a gradient.

        With `max_norm`, the gradients are first scaled to have together at most this norm, and
        the norm before that is returned. A norm that is not finite updates nothing.

        Raises
        ------
        ValueError
            `max_norm` is not above 0, or a gradient does not fit its parameter.
        RuntimeError
            A parameter has left the flat buffer.
        """
        norm = None
        scale = 1.0
        if max_norm is not None:
            _check_max_norm(type(self).__name__, max_norm)
        self._collect()
        spans = [list(self._spans(group)) for group in self.groups]
        if max_norm is not None:
            norm = self._norm([each for members in spans for each in members])
            if not math.isfinite(norm):
                return norm
            scale = min(1.0, max_norm / (norm + 1e-6))
        for group, members in zip(self.groups, spans, strict=True):
            for span, count in members:
                self.update(span, count + 1, group.options, scale)
        self.updates += [each.grad is not None for each in self.parameters]
        for each in self.parameters:
            if each.grad is not None:
                each.version.value += 1
        return norm

    def update(self, span: slice, step: int, options: dict[str, Any], scale: float) -> None:
        """Do update number `step` of a range of the flat buffer, its gradients times `scale`."""
        raise NotImplementedError(f"{type(self).__name__} defines no update")

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of every group."""
        _check_number(type(self).__name__, "lr", lr)
        for group in self.groups:
            group.options["lr"] = lr

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return the number of updates of each parameter, and the flat buffers of `slots`.

        The arrays are shared, not copied.
        """
        backend = self.parameters[0].backend
        return {
            "updates": self.updates,
            **{slot: backend.to_numpy(array) for slot, array in self.state.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy a state in; ValueError that names what is missing or different, nothing changed."""
        name = type(self).__name__
        backend = self.parameters[0].backend
        own = {"updates": self.updates, **self.state}
        for key, array in own.items():
            given = state.get(key)
            if given is None or given.shape != array.shape or given.dtype != array.dtype:
                got = "nothing" if given is None else f"{given.dtype} {given.shape}"
                raise ValueError(
                    f"{name}: state {key!r} is {got}, expected {array.dtype} {array.shape}"
                )
        for slot, array in self.state.items():
            array[...] = backend.from_numpy(state[slot])
        self.updates[...] = state["updates"]


def _check_number(name: str, option: str, value: float) -> None:
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name}: {option}={value}, expected a finite number >= 0")


def _check_max_norm(name: str, max_norm: float) -> None:
    if not max_norm > 0:
        raise ValueError(f"{name}: max_norm={max_norm}, expected a number above 0")


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

    def update(self, span: slice, step: int, options: dict[str, Any], scale: float) -> None:
        """Update a range of the flat buffer."""
        self.parameters[0].backend.sgd.update(
            self.flat[span],
            self.flat_grad[span],
            self.state["velocity"][span] if options["momentum"] else None,
            step=step,
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

    def update(self, span: slice, step: int, options: dict[str, Any], scale: float) -> None:
        """Update a range of the flat buffer."""
        self.parameters[0].backend.adamw.update(
            self.flat[span],
            self.flat_grad[span],
            self.state["exp_avg"][span],
            self.state["exp_avg_sq"][span],
            step=step,
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

    Optimizers do the same in `step(max_norm=...)` without a pass of its own. Gradients whose norm
    is not finite are left as they are.

    Raises
    ------
    ValueError
        `max_norm` is not above 0.
    """
    _check_max_norm("clip_grad_norm_", max_norm)
    grads = [each.grad for each in parameters if each.grad is not None]
    norm = math.hypot(*(float(g.backend.global_norm.forward(g.array.reshape(-1))) for g in grads))
    scale = max_norm / (norm + 1e-6)
    if math.isfinite(norm) and scale < 1:
        for g in grads:
            g.copy_(g * scale)
    return norm


def constant(lr: float) -> Schedule:
    """Return the schedule that gives `lr` at every step; ValueError if it cannot be one."""
    _check_number("constant", "lr", lr)
    return lambda step: lr


def warmup_cosine(lr: float, warmup: int, total: int, floor: float) -> Schedule:
    """Return a schedule: linear warm-up, then a cosine down to `floor` (arXiv:1608.03983).

    Steps count from 0. Step i < warmup gives lr (i + 1) / (warmup + 1); then
    floor + (lr - floor) (1 + cos(pi (i - warmup) / (total - warmup))) / 2; from `total` on, floor.

    Raises
    ------
    ValueError
        A rate or a number of steps is negative or not finite.
    """
    for option, value in (("lr", lr), ("warmup", warmup), ("total", total), ("floor", floor)):
        _check_number("warmup_cosine", option, value)

    def schedule(step: int) -> float:
        if step < warmup:
            return lr * (step + 1) / (warmup + 1)
        if step >= total:
            return floor
        progress = (step - warmup) / (total - warmup)
        return floor + (lr - floor) * (1 + math.cos(math.pi * progress)) / 2

    return schedule
