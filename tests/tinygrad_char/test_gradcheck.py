"""gradcheck accepts right gradients, rejects wrong ones, and says which element is wrong."""

import numpy as np
import pytest

from tinygrad_char import GradcheckError, Tensor, gradcheck, no_grad, tensor
from tinygrad_char.autograd import Function


def operation(forward, backward):
    """Return a function of one tensor with this forward and backward on arrays."""

    class Operation(Function):
        def forward(self, x):
            self.saved = (x,)
            return forward(x)

        def backward(self, grad):
            return backward(self.saved[0], grad)

    return Operation.apply


def leaf(*shape):
    values = np.random.default_rng(0).uniform(0.5, 1.5, shape)
    return Tensor(values, requires_grad=True)


def flipped(values, index):
    values = values.copy()
    values[index] *= -1
    return values


def replaced(values, index, value):
    values = values.copy()
    values[index] = value
    return values


def test_right_gradient_is_accepted_and_the_worst_element_reported():
    x = leaf(2, 3)
    before = x.detach().numpy().copy()
    report = gradcheck(operation(np.sin, lambda x, g: g * np.cos(x)), x)
    assert report.input == 0
    assert 0 <= report.ratio <= 1
    assert report.backward == pytest.approx(report.numerical, rel=1e-5)
    assert (x.detach().numpy() == before).all()
    assert x.grad is None


@pytest.mark.parametrize(
    "backward",
    [
        lambda x, g: g * np.cos(x) * 1.001,
        lambda x, g: -g * np.cos(x),
        lambda x, g: g,
        lambda x, g: g * 0,
        lambda x, g: np.full_like(g, g.sum()) * np.cos(x),
    ],
    ids=["factor", "sign", "no chain rule", "zero", "mixed elements"],
)
def test_wrong_gradient_is_rejected(backward):
    with pytest.raises(GradcheckError, match=r"input 0, element \(\d, \d\): backward gives"):
        gradcheck(operation(np.sin, backward), leaf(2, 3))


@pytest.mark.parametrize("index", [(0, 0), (1, 1), (1, 2)])
@pytest.mark.parametrize(
    "wrong", [flipped, lambda v, i: replaced(v, i, np.nan)], ids=["sign", "nan"]
)
def test_one_wrong_element_is_named(index, wrong):
    wrongly = operation(np.sin, lambda x, g: wrong(g * np.cos(x), index))
    with pytest.raises(GradcheckError) as error:
        gradcheck(wrongly, leaf(2, 3))
    assert f"input 0, element {index}" in str(error.value)


def test_wrong_gradient_that_a_sum_would_hide_is_rejected():
    def softmax(x):
        y = np.exp(x)
        return y / y.sum(-1, keepdims=True)

    with pytest.raises(GradcheckError):
        gradcheck(operation(softmax, lambda x, g: g * 0), leaf(2, 3))


def test_input_that_is_left_out_of_the_graph_is_rejected():
    with pytest.raises(GradcheckError, match=r"input 1, element \(\d,\): backward gives 0"):
        gradcheck(lambda a, b: a * b.detach(), [leaf(3), leaf(3)])


def test_result_without_history_is_rejected():
    with pytest.raises(GradcheckError, match="no output is linked to the inputs"):
        gradcheck(lambda x: x.detach() * 2, leaf(3))


def test_every_output_counts():
    wrong = operation(np.sin, lambda x, g: g)
    assert gradcheck(lambda x: [x * 2, x.exp()], leaf(3)).ratio <= 1
    with pytest.raises(GradcheckError):
        gradcheck(lambda x: (x * 2, wrong(x)), leaf(3))


def test_input_on_which_nothing_depends_has_no_gradient():
    assert gradcheck(lambda a, b: a * 2, [leaf(3), leaf(2)]).ratio <= 1


def test_input_itself_and_views_of_it_are_results_too():
    assert gradcheck(lambda x: x, leaf(3)).ratio <= 1
    assert gradcheck(lambda x: x.T[1:], leaf(2, 3)).ratio <= 1


def test_inputs_that_need_no_gradient_may_have_any_dtype():
    mask = tensor([True, False, True])
    assert gradcheck(lambda x, m: x.masked_fill(m, 2), [leaf(3), mask]).ratio <= 1


def test_single_precision_is_refused():
    x = Tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(TypeError, match="input 1 is float32; differences need float64"):
        gradcheck(lambda a, b: a * b, [leaf(2), x])


def test_no_input_that_requires_grad_is_refused():
    with pytest.raises(TypeError, match="no input requires grad"):
        gradcheck(lambda x: x, tensor([1.0]))


def test_function_that_changes_its_mind_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(GradcheckError, match="another result each time"):
        gradcheck(lambda x: x * rng.random(), leaf(3))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_result_that_is_not_finite_is_refused(value):
    with pytest.raises(GradcheckError, match="not finite"):
        gradcheck(lambda x: x * Tensor([1.0, value], np.float64), leaf(2))


def test_under_no_grad_there_is_no_history():
    with no_grad(), pytest.raises(GradcheckError, match="no output is linked"):
        gradcheck(lambda x: x * 2, leaf(2))


def test_both_devices_are_served(device):
    rng = np.random.default_rng(0)
    x, w = (
        Tensor(rng.uniform(0.5, 1.5, shape), device=device, requires_grad=True)
        for shape in ((2, 3), (3,))
    )
    before = x.tolist()
    gradcheck(lambda x, w: ((x * w).exp(), x.softmax()), [x, w])
    assert x.tolist() == before
    with pytest.raises(GradcheckError, match="backward gives 2"):
        gradcheck(operation(lambda x: x * 3, lambda x, grad: grad * 2 / grad), x)
