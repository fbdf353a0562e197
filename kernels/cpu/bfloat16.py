"""Products in bfloat16: by the processor's instruction for them, or by the same in portable C."""

from functools import cache

from tinygrad_char.kernels.cpu.extension import compiled
from tinygrad_char.kernels.words import choice

VARIABLE = "TINYGRAD_CHAR_BF16"
"""With "emulated" the instruction is not used where there is one; results have the same bits."""
BY_INSTRUCTION, WITHOUT = 2, 1


@cache
def has_instruction() -> bool:
    """Return whether the processor multiplies pairs in bfloat16 itself, by AVX512_BF16.

    From then on, the kernels in C do as is said here.

    Raises
    ------
    EnvironmentVariableError
        The environment asks for what does not exist.
    """
    way = choice(VARIABLE, ("instruction", "emulated"), "instruction")
    if compiled is None:
        return False
    most = BY_INSTRUCTION if way == "instruction" else WITHOUT
    return compiled.product_choose_bf16(most) == BY_INSTRUCTION
