"""Muon, alone or with AdamW in one optimizer."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from tinygrad_char.adam import AdamW
from tinygrad_char.kernels import adamw, muon
from tinygrad_char.kernels.array import Array
from tinygrad_char.kernels.words import shorten
from tinygrad_char.optimizer import Optimizer
from tinygrad_char.param_groups import Group
from tinygrad_char.tensor import Tensor


class Muon(Optimizer):
    """Muon, for matrices (Jordan et al. 2024, Liu et al. 2025): see kernels/muon/reference.py.

    The update of a weight W (R, C) is its momentum with all singular values brought near to 1 by
    `ns_steps` Newton-Schulz steps, times lr sqrt(max(1, R / C)); so it does not depend on the size
    of the gradient. It is meant for the weights of hidden linear layers: embeddings, heads, gains
    and biases are better off with AdamW, see `MuonAdamW`.

    Parameters
    ----------
    momentum, nesterov
        Of the running mean of gradients; by Nesterov's rule the newest counts once more.
    ns_steps
        From 2 to 5: what they cost, and how near to 1 they come, is on the page of kernels/muon.
    weight_decay
        Taken from the weights directly, as AdamW's.
    splits
        Into how many matrices of equal height a weight is cut, each of which is treated alone: 3
        for queries, keys and values that come from one weight (3 C, C).

    Raises
    ------
    ValueError
        As other optimizers; and where a parameter has not two axes, or cannot be cut.
    """

    slots: ClassVar[tuple[str, ...]] = ("exp_avg",)
    recordable = True
    fixed: ClassVar[tuple[str, ...]] = ("splits",)

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[Mapping[str, Any]],
        lr: float = 0.01,
        momentum: float = 0.95,
        *,
        nesterov: bool = True,
        ns_steps: int = 3,
        weight_decay: float = 0.0,
        splits: int = 1,
    ) -> None:
        own = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps}
        super().__init__(parameters, lr=lr, **own, weight_decay=weight_decay, splits=splits)

    def check(self, options: dict[str, Any]) -> None:
        """Raise ValueError that names a hyperparameter out of range."""
        super().check(options)
        name, steps, splits = type(self).__name__, options["ns_steps"], options["splits"]
        if not isinstance(steps, int) or steps not in muon.COEFFICIENTS:
            raise ValueError(
                f"{name}: ns_steps={shorten(steps)}, expected one of {list(muon.COEFFICIENTS)}"
            )
        if not isinstance(options["nesterov"], bool):
            raise ValueError(
                f"{name}: nesterov={shorten(options['nesterov'])}, expected True or False"
            )
        if isinstance(splits, bool) or not isinstance(splits, int) or splits < 1:
            raise ValueError(f"{name}: splits={shorten(splits)}, expected an integer of at least 1")

    def _orthogonalizes(self, options: dict[str, Any]) -> bool:
        """Return whether a group of these options is Muon's."""
        return True

    def _check_members(self) -> None:
        super()._check_members()
        name = type(self).__name__
        for group in self.groups:
            if not self._orthogonalizes(group.options):
                continue
            splits = group.options["splits"]
            for each in group.members:
                if each.ndim != 2:
                    raise ValueError(
                        f"{name}: a parameter of shape {each.shape} is no matrix; expected two "
                        "axes: give the others to AdamW, or all to MuonAdamW in groups"
                    )
                if each.shape[0] % splits:
                    raise ValueError(
                        f"{name}: a parameter of shape {each.shape} cannot be cut in "
                        f"{splits} matrices of equal height"
                    )

    def _flatten(self, wanted: Callable[[Tensor], bool]) -> None:
        super()._flatten(wanted)
        self._batches: dict[tuple[int, int], list[muon.Matrices]] = {}

    def _matrices(self, span: slice, splits: int) -> list[muon.Matrices]:
        """Return the matrices in a range of the flat buffer, those of one shape together."""
        key = (span.start, span.stop)
        if key not in self._batches:
            found: dict[tuple[int, int], list[int]] = {}
            first, last = (bisect_left(self.offsets, end) for end in key)
            for each, start in zip(
                self.parameters[first:last], self.offsets[first:last], strict=True
            ):
                if each.size:  # an empty neighbour of another group may stand at the same place
                    shape = each.shape[0] // splits, each.shape[1]
                    size = shape[0] * shape[1]
                    found.setdefault(shape, []).extend(start + i * size for i in range(splits))
            self._batches[key] = [
                muon.Matrices(self.backend.from_numpy(np.array(starts, np.int64)), shape)
                for shape, starts in found.items()
            ]
        return self._batches[key]

    def update(self, span: slice, step: int, options: dict[str, Any], scale: float) -> None:
        """Update the matrices in a range of the flat buffer."""
        buffers = self.flat, self.flat_grad, self.state["exp_avg"]
        rates = muon.Rates(options["lr"], options["weight_decay"], scale)
        for matrices in self._matrices(span, options["splits"]):
            self.backend.chosen().kernels[muon.update](
                *buffers, matrices, _muon_rule(options), rates
            )

    def update_recorded(self, group: Group, factors: Array) -> None:
        """Update the matrices of a group."""
        buffers, options = (self.flat, self.flat_grad, self.state["exp_avg"]), group.options
        for matrices in self._matrices(self._span(group), options["splits"]):
            self.backend.chosen().kernels[muon.update_recorded](
                *buffers, matrices, _muon_rule(options), factors
            )

    def rule(self, options: dict[str, Any]) -> adamw.Rule:
        """Return AdamW's rule without its averages: the factors are then lr and the decay."""
        decay = options["weight_decay"]
        return adamw.Rule(betas=(0.0, 0.0), eps=0.0, weight_decay=decay, decoupled=True)


def _muon_rule(options: dict[str, Any]) -> muon.Rule:
    return muon.Rule(*(options[name] for name in muon.Rule._fields))


class MuonAdamW(Muon, AdamW):
    """Muon for groups with "muon": True, and AdamW for the others, as one optimizer.

        MuonAdamW([
            {"params": embeddings, "lr": 4e-3, "weight_decay": 0.1},
            {"params": gains, "lr": 4e-3},
            {"params": matrices, "muon": True, "lr": 0.01},
        ])

    One norm decides about clipping: that of all gradients, by which all are scaled. Muon itself
    would not need it, but a gradient that is much larger than others would rule its momentum.

    Groups of Muon keep no mean of squares; put last, they save the memory for it.

    Parameters
    ----------
    betas, eps
        AdamW's.
    momentum, nesterov, ns_steps, splits
        Muon's.
    lr, weight_decay
        Of groups that set none, Muon's and AdamW's alike.
    """

    slots = ("exp_avg", "exp_avg_sq")
    fixed = ("muon", "splits")

    def __init__(
        self,
        parameters: Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 3,
        splits: int = 1,
    ) -> None:
        of_adamw = {"betas": betas, "eps": eps, "weight_decay": weight_decay}
        of_muon = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps}
        own = {"lr": lr, **of_adamw, "muon": False, **of_muon, "splits": splits}
        Optimizer.__init__(self, parameters, **own)

    def check(self, options: dict[str, Any]) -> None:
        """Raise ValueError that names a hyperparameter out of range."""
        super().check(options)
        if not isinstance(options["muon"], bool):
            raise ValueError(f"MuonAdamW: muon={shorten(options['muon'])}, expected True or False")

    def _orthogonalizes(self, options: dict[str, Any]) -> bool:
        return bool(options["muon"])

    def _keeping(self, slot: str) -> int:
        if slot == "exp_avg":
            return super()._keeping(slot)
        adamw_groups = [n for n, each in enumerate(self.groups, start=1) if not each["muon"]]
        return max(adamw_groups, default=0)

    def update(self, span: slice, step: int, options: dict[str, Any], scale: float) -> None:
        """Update a range of the flat buffer."""
        _which(options).update(self, span, step, options, scale)

    def update_recorded(self, group: Group, factors: Array) -> None:
        """Update a group."""
        _which(group.options).update_recorded(self, group, factors)

    def rule(self, options: dict[str, Any]) -> adamw.Rule:
        """Return a group's rule."""
        return _which(options).rule(self, options)


def _which(options: dict[str, Any]) -> type[Muon | AdamW]:
    """Return which of the two updates a group of MuonAdamW."""
    return Muon if options["muon"] else AdamW
