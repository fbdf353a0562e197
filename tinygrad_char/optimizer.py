"""What all optimizers share: flat buffers, groups, clipping, and the state.

An optimizer moves the parameters that it trains into one flat buffer, of which they become views,
and their gradients into another, group after group; so a step is one pass over memory.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from tinygrad_char.kernels import adamw, global_norm
from tinygrad_char.kernels.array import FLOAT32, Array, is_floating, is_half
from tinygrad_char.kernels.words import shorten
from tinygrad_char.modes import quiet
from tinygrad_char.param_groups import Group
from tinygrad_char.schedules import check_number, is_number
from tinygrad_char.tensor import Tensor


class Optimizer:
    """Shared by the optimizers: the flat buffers, the groups, and the state.

    A parameter that is frozen (requires no gradient) is left as and where it is. It is taken in
    by the first step for which it has a gradient; one that is frozen later keeps its value and
    state. copy.deepcopy of a model and its optimizer together, and pickle, keep them together.

    Parameters
    ----------
    parameters
        Tensors, or groups: dicts with "params" and options that differ, such as weight_decay.
    options
        The hyperparameters of groups that do not set their own.

    Attributes
    ----------
    parameters
        Those in the flat buffer.
    param_groups
        The groups, as dicts whose options may be changed between steps.

    Raises
    ------
    ValueError
        No parameter, one given twice or computed from others, an unknown option, or a
        hyperparameter out of range.
    TypeError
        Something else than tensors, or dicts with "params", was given.
    """

    slots: ClassVar[tuple[str, ...]] = ()
    """The names of the flat state buffers, which start as zeros."""
    recordable: ClassVar[bool] = False
    """Whether there is `update_recorded`, for steps that are repeated: see training_step.py."""
    fixed: ClassVar[tuple[str, ...]] = ()
    """Options of groups that are not changed after they are set."""

    def __init__(
        self, parameters: Iterable[Tensor] | Iterable[Mapping[str, Any]], **options: Any
    ) -> None:
        entries: list[Any] = list(parameters)
        if not all(isinstance(each, Mapping) and "params" in each for each in entries):
            entries = [{"params": entries}]
        self.defaults = options
        self.groups: list[Group] = []
        for entry in entries:
            group = self._group(entry)
            if group.members:
                self.groups.append(group)
        if not self.groups:
            raise ValueError(f"{type(self).__name__}: no parameters to optimize")
        self._begin(lambda each: each.requires_grad)

    def _begin(self, wanted: Callable[[Tensor], bool]) -> None:
        """Start with nothing in the flat buffer, then take in what is wanted there."""
        self._check_members()
        first = self.groups[0].members[0]
        self.backend, self.dtype = first.backend, first.dtype
        self.parameters: list[Tensor] = []
        self.offsets = [0]
        self.updates = np.zeros(0, np.int64)
        self.state: dict[str, Array] = dict.fromkeys(self.slots, self.backend.xp.empty(0))
        self._views: list[Array] = []
        self._flatten(wanted)

    @property
    def param_groups(self) -> list[Group]:
        """The groups: `for group in optimizer.param_groups: group["lr"] *= 0.1`."""
        return self.groups

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Train the tensors of group["params"] too, with the options that it sets.

        Raises
        ------
        ValueError, TypeError
            As when an optimizer is made; then nothing is changed.
        """
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(
                f"{type(self).__name__}: expected a dict with 'params', got {type(group).__name__}"
            )
        added = self._group(group)
        if not added.members:
            raise ValueError(f"{type(self).__name__}: no parameters to optimize")
        self.groups.append(added)
        try:
            new = set(map(id, added.members))
            self._flatten(lambda each: each.requires_grad and id(each) in new)
        except Exception:
            self.groups.pop()
            raise

    def _group(self, entry: Mapping[str, Any]) -> Group:
        given = {name: value for name, value in entry.items() if name != "params"}
        unknown = sorted(set(given) - set(self.defaults))
        if unknown:
            raise ValueError(f"{type(self).__name__}: unknown group option {unknown[0]!r}")
        options = {**self.defaults, **given}
        self.check(options)
        members = entry["params"]
        return Group(self, options, [members] if isinstance(members, Tensor) else list(members))

    def check(self, options: dict[str, Any]) -> None:
        """Raise ValueError that names a hyperparameter out of range."""
        name = type(self).__name__
        for option in ("lr", "weight_decay", "eps"):
            check_number(name, option, options.get(option, 0.0))
        betas = options.get("betas", (0.0, 0.0))
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise ValueError(f"{name}: betas={shorten(betas)}, expected two numbers")
        momentum = options.get("momentum", 0.0)
        for option, value in (("betas", betas[0]), ("betas", betas[1]), ("momentum", momentum)):
            if not (is_number(value) and 0 <= value < 1):
                raise ValueError(
                    f"{name}: {option} has {shorten(value)}, expected a number in [0, 1)"
                )
        alpha = options.get("alpha", 0.0)
        if not (is_number(alpha) and 0 <= alpha <= 1):
            raise ValueError(f"{name}: alpha={shorten(alpha)}, expected a number in [0, 1]")
        if options.get("nesterov") and momentum == 0:
            raise ValueError(f"{name}: nesterov=True needs a momentum above 0")

    @property
    def _members(self) -> list[Tensor]:
        """All parameters that were given, the frozen ones too."""
        return [each for group in self.groups for each in group.members]

    def _flatten(self, wanted: Callable[[Tensor], bool]) -> None:
        """Lay out the buffers anew: of what is in them, and what else is wanted there.

        The values, gradients and state that there are go along; nothing is changed where an error
        is raised.
        """
        self._check_members()
        before = {
            id(each): number
            for number, (each, view) in enumerate(zip(self.parameters, self._views, strict=True))
            if each.array is view  # a frozen one may have left
        }
        chosen = [
            [each for each in group.members if id(each) in before or wanted(each)]
            for group in self.groups
        ]
        parameters = [each for members in chosen for each in members]
        first = parameters[0] if parameters else self._members[0]
        for each in parameters:
            if each.dtype != first.dtype or each.backend is not first.backend:
                raise ValueError(
                    f"{type(self).__name__}: parameters of {first.dtype} on {first.device} and "
                    f"{each.dtype} on {each.device}; expected one dtype and device"
                )
        self.backend, self.dtype = first.backend, first.dtype
        xp, was, offsets = self.backend.xp, self.state, self.offsets
        updates, begin = self.updates, 0
        for group, members in zip(self.groups, chosen, strict=True):
            group.first, begin = begin, begin + len(members)
            group.last = begin
        self.parameters = parameters
        self.offsets = np.cumsum([0] + [each.size for each in parameters]).tolist()
        self.updates = np.zeros(len(parameters), np.int64)
        self.flat: Array = xp.empty(self.offsets[-1], dtype=first.dtype)
        self.flat_grad: Array = xp.zeros_like(self.flat)
        # of sixteen bits, the mean of squares would be zero below 1e-4
        dtype = FLOAT32 if is_half(self.flat) else first.dtype
        self.state = {slot: xp.zeros(self._extent(slot), dtype) for slot in self.slots}
        self._views = []
        for position, (each, start) in enumerate(zip(parameters, self.offsets, strict=False)):
            part = slice(start, start + each.size)
            view = self.flat[part].reshape(each.shape)
            view[...] = each.array
            each.array = view
            each.version.value += 1
            grad, each.grad = each.grad, None
            each.grad_buffer = each._result(self.flat_grad[part].reshape(each.shape))
            each.grad = grad
            self._views.append(view)
            number = before.get(id(each))
            if number is not None:
                self.updates[position] = updates[number]
                for slot in self.slots:  # of which the buffer may end before
                    own = was[slot][offsets[number] : offsets[number + 1]]
                    self.state[slot][start : start + own.size] = own

    def _keeping(self, slot: str) -> int:
        """Return how many groups, from the first on, have their part of the buffer of a slot."""
        return len(self.groups)

    def _extent(self, slot: str) -> int:
        """Return the elements of the buffer of a slot."""
        keeping = self._keeping(slot)
        return self.offsets[self.groups[keeping - 1].last] if keeping else 0

    def _check_members(self) -> None:
        name = type(self).__name__
        members = self._members
        for position, each in enumerate(members):
            if not isinstance(each, Tensor):
                raise TypeError(
                    f"{name}: expected tensors, or dicts with 'params', got {type(each).__name__}"
                )
            if not each.is_leaf or not is_floating(each.dtype):
                raise ValueError(f"{name}: tensor {position} {each.shape} is no trainable leaf")
        if len({id(each) for each in members}) != len(members):
            raise ValueError(f"{name}: a parameter was given twice")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters; with set_to_none=False, fill them with 0.

        A parameter whose gradient is 0 is still updated: by momentum and weight decay.
        """
        for group in self.groups:
            for each in group.members:
                if set_to_none:
                    each._grad = None
                else:
                    each.zero_grad(set_to_none=False)

    def _collect(self) -> None:
        """Make sure that parameters are where the flat buffer has them, as gradients always are."""
        for position, (each, view) in enumerate(zip(self.parameters, self._views, strict=True)):
            if each.array is not view and each.requires_grad:
                raise RuntimeError(
                    f"{type(self).__name__}: parameter {position} {each.shape} has left this "
                    "optimizer's buffer (moved to a device, converted, or given to another "
                    "optimizer); make the optimizer afterwards, and one for each parameter"
                )
        if sum(len(group.members) for group in self.groups) > len(self.parameters):
            inside = set(map(id, self.parameters))
            if any(_trains(each) and id(each) not in inside for each in self._members):
                self._flatten(_trains)

    def _counts(self) -> list[int | None]:
        """Return of each parameter the number of updates that it has had, None if none follows.

        None follows where it is frozen or has no gradient.
        """
        return [
            count if each._grad is not None and each.requires_grad else None
            for each, count in zip(self.parameters, self.updates.tolist(), strict=True)
        ]

    def _spans(self, group: Group, counts: list[int | None]) -> Iterator[tuple[slice, int]]:
        """Yield the longest ranges of the flat buffer that are updated, all the same time.

        With each, the number of updates that its parameters have had.
        """
        first, counts = group.first, counts[group.first : group.last]
        for count, run in itertools.groupby(counts):
            last = first + len(list(run))
            if count is not None:
                yield slice(self.offsets[first], self.offsets[last]), count
            first = last

    def grad_norm(self) -> float:
        """Return the Euclidean norm of all gradients together."""
        self._collect()
        counts = self._counts()
        return self._norm([each for group in self.groups for each in self._spans(group, counts)])

    def _norm(self, spans: list[tuple[slice, int]]) -> float:
        norm_of = self.backend.chosen().kernels[global_norm.forward]
        return math.hypot(*(float(norm_of(self.flat_grad[span])) for span, _ in spans))

    @quiet
    def step(self, *, max_norm: float | None = None) -> float | None:
        """Update every parameter that has a gradient and is not frozen.

        With `max_norm`, the gradients are first scaled to have together at most this norm, and
        the norm before that is returned. A norm that is not finite updates nothing.

        Raises
        ------
        ValueError
            `max_norm` is not above 0.
        RuntimeError
            A parameter has left the flat buffer.
        """
        norm = None
        scale = 1.0
        if max_norm is not None:
            check_max_norm(type(self).__name__, max_norm)
        self._collect()
        counts = self._counts()
        spans = [list(self._spans(group, counts)) for group in self.groups]
        if max_norm is not None:
            norm = self._norm([each for members in spans for each in members])
            if not math.isfinite(norm):
                return norm
            scale = min(1.0, max_norm / (norm + 1e-6))
        for group, members in zip(self.groups, spans, strict=True):
            for span, count in members:
                self.update(span, count + 1, group.options, scale)
        self.updates += np.array([count is not None for count in counts], bool)
        for each, had in zip(self.parameters, counts, strict=True):
            if had is not None:
                each.version.value += 1
        return norm

    def update(self, span: slice, step: int, options: dict[str, Any], scale: float) -> None:
        """Do update number `step` of a range of the flat buffer, its gradients times `scale`."""
        raise NotImplementedError(f"{type(self).__name__} defines no update")

    def update_recorded(self, group: Group, factors: Array) -> None:
        """Do an update of a whole group, with what changes from step to step read from `factors`.

        They are what `adamw.count_step` made of `rule`.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no update that can be recorded")

    def rule(self, options: dict[str, Any]) -> adamw.Rule:
        """Return the options by which `adamw.count_step` finds a group's factors."""
        raise NotImplementedError(f"{type(self).__name__} defines no update that can be recorded")

    def _span(self, group: Group) -> slice:
        """Return the part of the flat buffer that a group has."""
        return slice(self.offsets[group.first], self.offsets[group.last])

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of every group."""
        check_number(type(self).__name__, "lr", lr)
        for group in self.groups:
            group.options["lr"] = lr

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return the number of updates of each parameter, and the flat buffers of `slots`.

        Group after group, zeros for what is frozen and has never trained. The arrays are shared,
        not copied, where there is no such.
        """
        own = {
            "updates": self.updates,
            **{slot: self.backend.to_numpy(array) for slot, array in self.state.items()},
        }
        if len(self.parameters) == len(self._members):
            return own
        whole = {name: np.zeros(size, own[name].dtype) for name, size in self._sizes().items()}
        for name, part, inside in self._parts():
            if inside is not None:
                whole[name][part] = own[name][inside]
        return whole

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy a state in; ValueError that names what is missing or different, nothing changed."""
        name = type(self).__name__
        dtypes = {name: each.dtype for name, each in self.state.items()}
        dtypes["updates"] = self.updates.dtype
        for key, size in self._sizes().items():
            given = state.get(key)
            if given is None or given.shape != (size,) or given.dtype != dtypes[key]:
                got = "nothing" if given is None else f"{given.dtype} {given.shape}"
                raise ValueError(
                    f"{name}: state {key!r} is {got}, expected {dtypes[key]} {(size,)}"
                )
        counts = np.asarray(state["updates"]).tolist()
        trained = {id(each) for each, n in zip(self._members, counts, strict=True) if n}
        if trained - set(map(id, self.parameters)):
            self._flatten(lambda each: id(each) in trained)
        for key, part, inside in self._parts():
            if inside is not None and key == "updates":
                self.updates[inside] = np.asarray(state[key])[part]
            elif inside is not None:
                self.state[key][inside] = self.backend.from_numpy(np.asarray(state[key])[part])

    def _sizes(self) -> dict[str, int]:
        elements = [sum(each.size for each in group.members) for group in self.groups]
        sizes = {slot: sum(elements[: self._keeping(slot)]) for slot in self.slots}
        return {"updates": len(self._members), **sizes}

    def _parts(self) -> Iterator[tuple[str, slice, slice | None]]:
        """Yield each state's name, its part of each parameter, and where that is kept here."""
        inside = {id(each): number for number, each in enumerate(self.parameters)}
        sizes, start = self._sizes(), 0
        for position, each in enumerate(self._members):
            number, end = inside.get(id(each)), start + each.size
            kept = None if number is None else slice(number, number + 1)
            yield "updates", slice(position, position + 1), kept
            for slot in self.slots:
                if number is not None:
                    kept = slice(self.offsets[number], self.offsets[number + 1])
                if end <= sizes[slot]:
                    yield slot, slice(start, end), kept
            start = end

    # Copies and pickles: the parameters, options and state; the buffers are laid out again

    def __getstate__(self) -> dict[str, Any]:
        inside = set(map(id, self.parameters))
        rest = {name: value for name, value in vars(self).items() if name not in _LAID_OUT}
        groups = [(group.options, group.members) for group in self.groups]
        return {**rest, "groups": groups, "state": self.state_dict()} | {
            "inside": [id(each) in inside for each in self._members]
        }

    def __setstate__(self, saved: dict[str, Any]) -> None:
        saved = dict(saved)
        groups, state, inside = (saved.pop(name) for name in ("groups", "state", "inside"))
        vars(self).update(saved)
        self.groups = [Group(self, dict(options), members) for options, members in groups]
        kept = {id(each) for each, was in zip(self._members, inside, strict=True) if was}
        self._begin(lambda each: id(each) in kept)
        self.load_state_dict(state)

    def __copy__(self) -> Optimizer:
        raise TypeError(
            f"{type(self).__name__}: two optimizers cannot share parameters in one buffer; "
            "copy.deepcopy the model and the optimizer together"
        )


_LAID_OUT = (
    *("groups", "parameters", "offsets", "updates", "flat", "flat_grad", "state", "_views"),
    *("backend", "dtype", "_batches"),
)


def _trains(parameter: Tensor) -> bool:
    return parameter.grad is not None and parameter.requires_grad


def check_max_norm(name: str, max_norm: float) -> None:
    """Raise ValueError unless gradients can be scaled to have at most this norm."""
    if not (is_number(max_norm) and (0 < max_norm <= sys.float_info.max or max_norm == math.inf)):
        raise ValueError(f"{name}: max_norm={shorten(max_norm)}, expected a number above 0")
