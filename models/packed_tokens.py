"""Tokens in as few bytes as a vocabulary takes: one, two, or three each.

NumPy has no integers of three bytes, so those of a vocabulary of more than 65,536 characters are
records of their low 16 bits and their high 8. Like arrays of integers they are cut, taken from and
concatenated; `integers` makes integers of a part, and `packed` the other way round.
"""

import numpy as np

THREE_BYTES = np.dtype([("low", "<u2"), ("high", "u1")])


def token_dtype(size: int) -> np.dtype:
    """Return the smallest dtype for tokens of a vocabulary of `size` characters."""
    smallest = np.min_scalar_type(max(size - 1, 0))
    return smallest if smallest.itemsize < THREE_BYTES.itemsize else THREE_BYTES


def packed(tokens: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return integers, each in [0, 2**24), in the given dtype of `token_dtype`."""
    if dtype != THREE_BYTES:
        return tokens.astype(dtype)
    result = np.empty(tokens.shape, dtype)
    result["low"], result["high"] = tokens & 0xFFFF, tokens >> 16
    return result


def integers(tokens: np.ndarray) -> np.ndarray:
    """Return tokens of three bytes as uint32, and those of any integer dtype as they are."""
    if tokens.dtype != THREE_BYTES:
        return tokens
    result = tokens["high"].astype(np.uint32)
    result <<= 16
    result |= tokens["low"]
    return result
