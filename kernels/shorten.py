"""Values in messages: however large or deep, one line."""

import reprlib


class _Shortener(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 60
        self.maxtuple = self.maxlist

    def repr_int(self, value: int, level: int) -> str:
        # Python refuses to print very long ones.
        return f"a number of {value.bit_length()} bits" if abs(value) >> 256 else str(value)


shorten = _Shortener().repr
"""Return a value's representation for a message."""
