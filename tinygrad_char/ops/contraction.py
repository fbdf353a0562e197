"""Sums of products over named axes: Einstein's summation convention."""

import string
from collections.abc import Sequence

from kernels.array import Array
from tinygrad_char.autograd import Function


def parse(subscripts: str, shapes: Sequence[tuple[int, ...]]) -> tuple[list[str], str]:
    """Return a letter for every axis of every operand, and of the result.

    An ellipsis becomes letters that are not used, counted from its last axis. Where the result has
    none, its axes are summed.

    Raises
    ------
    ValueError
        The subscripts do not fit the operands; both are named.
    """

    def wrong(why: str) -> ValueError:
        return ValueError(f"einsum: {subscripts!r} for shapes {list(shapes)}: {why}")

    text = subscripts.replace(" ", "")
    given, arrow, result = text.partition("->")
    terms = given.split(",")
    letters = set(given + result) - set(".,")
    if not letters <= set(string.ascii_letters):
        raise wrong(f"{''.join(sorted(letters - set(string.ascii_letters)))!r} in the subscripts")
    if len(terms) != len(shapes):
        raise wrong(f"{len(terms)} subscript(s) for {len(shapes)} operand(s)")
    unused = [each for each in reversed(string.ascii_letters) if each not in letters]
    longest = 0
    inputs = []
    for term, shape in zip(terms, shapes, strict=True):
        before, dots, behind = term.partition("...")
        missing = len(shape) - len(before + behind)
        if "." in before + behind or missing < 0 or (missing and not dots):
            raise wrong(f"{term!r} for {len(shape)} axes")
        if missing > len(unused):
            raise wrong("too many axes")
        longest = max(longest, missing)
        inputs.append(before + "".join(unused[:missing][::-1]) + behind)
    ellipsis = "".join(unused[:longest][::-1])
    if arrow:
        if "." in result.replace("...", "", 1):
            raise wrong(f"{result!r} as the result")
        output = result.replace("...", ellipsis)
    else:
        every = given.replace("...", "").replace(",", "")
        output = ellipsis + "".join(each for each in sorted(letters) if every.count(each) == 1)
    if len(set(output)) != len(output) or not set(output) <= set("".join(inputs)):
        raise wrong(f"{result!r} as the result; expected letters of the operands, each once")
    return inputs, output


class Einsum(Function):
    """The product of all operands, summed over the letters that the result does not have."""

    upcasts = True

    def forward(self, *operands: Array, subscripts: str) -> Array:
        """Return the sum; ValueError that names the shapes where they do not fit."""
        shapes = [each.shape for each in operands]
        self.inputs, self.output = parse(subscripts, shapes)
        self.lengths: dict[str, int] = {}
        for term, shape in zip(self.inputs, shapes, strict=True):
            for letter, length in zip(term, shape, strict=True):
                known = self.lengths.setdefault(letter, length)
                if 1 not in (known, length) and known != length:
                    raise ValueError(
                        f"einsum: {subscripts!r} for shapes {shapes}: an axis has the lengths "
                        f"{known} and {length}"
                    )
                self.lengths[letter] = length if known == 1 else known
            for letter in set(term):
                repeated = {n for each, n in zip(term, shape, strict=True) if each == letter}
                if len(repeated) > 1:
                    raise ValueError(
                        f"einsum: {subscripts!r} for shapes {shapes}: {letter!r} stands for "
                        f"axes of lengths {sorted(repeated)} of one operand"
                    )
        self.saved = operands
        return self._sum(list(operands), self.inputs, self.output)

    def _sum(self, arrays: list[Array], inputs: Sequence[str], output: str) -> Array:
        result = self.backend.xp.einsum(
            ",".join(inputs) + "->" + output, *arrays, optimize=len(arrays) > 1
        )
        return result if result.base is None else result.copy()

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        """Return for each operand dy times the others, summed over what the operand does not have.

        Letters that only the operand has were summed: each element gets the same. A letter that it
        has twice took its diagonal alone: the rest gets 0.
        """
        return tuple(
            self._gradient(grad, number) if need else None for number, need in enumerate(self.needs)
        )

    def _gradient(self, grad: Array, number: int) -> Array:
        xp = self.backend.xp
        x, term = self.saved[number], self.inputs[number]
        others = [each for i, each in enumerate(self.saved) if i != number]
        terms = [each for i, each in enumerate(self.inputs) if i != number]
        elsewhere = set(self.output).union(*terms)
        own = dict(zip(term, x.shape, strict=True))  # each letter once
        kept = "".join(
            each
            for each, length in own.items()
            if each in elsewhere and length == self.lengths[each]
        )
        part = self._sum([grad, *others], [self.output, *terms], kept)
        found = dict(zip(kept, part.shape, strict=True))
        lengths = [found.get(each, 1) for each in own]
        part = xp.broadcast_to(part.reshape(lengths), tuple(own.values()))
        if len(own) == len(term):
            return part
        # the others of the axes that share a letter run along with the first
        places = dict(zip(own, range(len(own)), strict=True))
        index = []
        for letter in term:
            shape = [1] * len(own)
            shape[places[letter]] = own[letter]
            index.append(xp.arange(own[letter]).reshape(shape))
        result = xp.zeros(x.shape, grad.dtype)
        result[tuple(index)] = part
        return result
