"""Which version serves an operation, and that a test of one really runs on each."""

from tinygrad_char.kernels import dropout
from tinygrad_char.kernels.dropout import cpu, reference


def test_each_version_is_the_one_that_its_name_says(request):
    name = request.node.callspec.params["version"]
    asked = getattr(dropout.forward, "first", dropout.forward)
    assert asked is {"reference": reference.forward, "c": cpu.forward}[name]
