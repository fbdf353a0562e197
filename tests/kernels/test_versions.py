"""That a test of an operation really runs on each of its versions."""

from versions import NAMES

from tinygrad_char.kernels import dropout, fused


def test_each_version_is_the_one_that_its_name_says(request):
    name = request.node.callspec.params["version"]
    assert (dropout.forward is fused.dropout_masked) == (name == "fused")


def test_every_fused_operation_is_among_those_with_versions():
    assert set(fused.TABLE) <= set(NAMES)
