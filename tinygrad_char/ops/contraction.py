"""Sums of products over named axes: Einstein's summation convention."""

import math
import string
from collections.abc import Sequence
from typing import Any

from tinygrad_char.autograd import Function
from tinygrad_char.kernels import matmul
from tinygrad_char.kernels.array import Array, is_floating
from tinygrad_char.kernels.reduce import total


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
        xp = self.backend.xp
        if not is_floating(arrays[0].dtype):
            terms = ",".join(inputs)
            result = xp.einsum(f"{terms}->{output}", *arrays, optimize=len(arrays) > 1)
            return result if result.base is None else result.copy()
        rest = [self._without_lengths_of_1(*each) for each in zip(arrays, inputs, strict=True)]
        while len(rest) > 1:
            # the two of which the product is smallest: a matrix product if letters are summed
            sizes = {
                (i, j): self._size(self._kept(rest, output, i, j))
                for j in range(len(rest))
                for i in range(j)
            }
            i, j = min(sizes, key=sizes.__getitem__)
            kept = self._kept(rest, output, i, j)
            (right, right_term), (left, left_term) = rest.pop(j), rest.pop(i)
            rest.append((self._product(left, left_term, right, right_term, kept), kept))
        array, term = _summed(xp, *rest[0], output)
        lengths = dict(zip(term, array.shape, strict=True))
        result = array.transpose([term.index(each) for each in output if each in term])
        result = result.reshape([lengths.get(each, 1) for each in output])
        return result if result.base is None else result.copy()

    def _product(
        self, left: Array, left_term: str, right: Array, right_term: str, kept: str
    ) -> Array:
        """Return the product of two operands, summed over the letters that are not kept."""
        xp = self.backend.xp
        left, left_term = _summed(xp, left, left_term, kept + right_term)
        right, right_term = _summed(xp, right, right_term, kept + left_term)
        lengths = dict(zip(left_term + right_term, left.shape + right.shape, strict=True))
        both = [each for each in left_term if each in right_term and each in kept]
        summed = [each for each in left_term if each in right_term and each not in kept]
        left_only = [each for each in left_term if each not in right_term]
        right_only = [each for each in right_term if each not in left_term]

        def arranged(x: Array, term: str, *groups: list[str]) -> Array:
            x = x.transpose([term.index(each) for group in groups for each in group])
            sizes = [math.prod(lengths[each] for each in group) for group in groups]
            return x.reshape(sizes)

        if summed and (left_only or right_only):
            a = arranged(left, left_term, both, left_only, summed)
            b = arranged(right, right_term, both, summed, right_only)
            product = self.backend.kernels[matmul.forward](a, b)
        else:
            a = arranged(left, left_term, both, left_only, [], summed)
            b = arranged(right, right_term, both, [], right_only, summed)
            product = total(a * b, (3,))
        found = [*both, *left_only, *right_only]
        product = product.reshape([lengths[each] for each in found])
        return product.transpose([found.index(each) for each in kept])

    def _without_lengths_of_1(self, x: Array, term: str) -> tuple[Array, str]:
        """Return an operand and its letters without axes of length 1, which broadcast anyway."""
        kept = [i for i, length in enumerate(x.shape) if length != 1]
        return x.reshape([x.shape[i] for i in kept]), "".join(term[i] for i in kept)

    def _kept(self, operands: list[tuple[Array, str]], output: str, i: int, j: int) -> str:
        """Return the letters of operands i and j that the result or another operand has."""
        elsewhere = set(output).union(
            *(term for k, (_, term) in enumerate(operands) if k not in (i, j))
        )
        both = dict.fromkeys(operands[i][1] + operands[j][1])
        return "".join(each for each in both if each in elsewhere)

    def _size(self, term: str) -> int:
        return math.prod(self.lengths[each] for each in term)

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


def _summed(xp: Any, x: Array, term: str, kept: str) -> tuple[Array, str]:
    """Return x summed over the letters that are not kept, and with one axis for each other."""
    own = "".join(dict.fromkeys(term))
    if own != term:
        x = xp.einsum(f"{term}->{own}", x)  # a diagonal
    axes = tuple(i for i, each in enumerate(own) if each not in kept)
    if axes:
        x = xp.asarray(total(x, axes))
    return x, "".join(each for each in own if each in kept)
