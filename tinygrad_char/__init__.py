"""An autograd engine on NumPy and CuPy arrays, every backward pass by hand.

What is public is named in `__init__.pyi`, and loaded when it is first used: a command answers
before NumPy is loaded.
"""

import os

_folder = os.path.dirname(os.path.realpath(__file__))
if not os.path.exists(os.path.join(_folder, "kernels")):
    # A checkout has the packages inside this one beside it. Installed from there, this file is a
    # link into it, and what is added there counts without another installation.
    __path__ = [_folder, os.path.dirname(_folder)]

from tinygrad_char.lazy import attach

__version__ = "0.2.0"
__all__, __getattr__, __dir__ = attach(__name__)
