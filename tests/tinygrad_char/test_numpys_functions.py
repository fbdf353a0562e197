"""NumPy's own functions of tensors: an operation's name where there is one, else its values."""

import numpy as np
import pytest

import tinygrad_char as tg
from tinygrad_char import Tensor

T = Tensor(np.array([[1.0, 2.0], [3.0, 4.0]]), requires_grad=True)


@pytest.mark.parametrize(
    ("call", "name", "instead"),
    [
        (lambda: np.exp(T), "np.exp", "x.exp() or tinygrad_char.exp(x)"),
        (lambda: np.sum(T), "np.sum", "x.sum() or tinygrad_char.sum(x)"),
        (lambda: np.mean(T, axis=0), "np.mean", "x.mean()"),
        (lambda: np.sin(T), "np.sin", "x.sin()"),
        (lambda: np.absolute(T), "np.absolute", "x.abs()"),
        (lambda: np.maximum(T, 0), "np.maximum", "x.maximum() or tinygrad_char.maximum(x)"),
        (lambda: np.add(T, 1), "np.add", "the operator x + y"),
        (lambda: np.matmul(T, T), "np.matmul", "the operator x @ y"),
        (lambda: np.negative(T), "np.negative", "-x"),
        (lambda: np.concatenate([T, T]), "np.concatenate", "tinygrad_char.concatenate"),
        (lambda: np.where(T > 1, T, 0), "np.where", "tinygrad_char.where"),
        (lambda: np.einsum("ij->i", T), "np.einsum", "tinygrad_char.einsum"),
        (lambda: np.linalg.norm(T), "np.linalg.norm", "x.norm()"),
        (lambda: np.max(T), "np.max", "x.max()"),
        (lambda: np.transpose(T), "np.transpose", "x.transpose()"),
        (lambda: np.expand_dims(T, 0), "np.expand_dims", "x.unsqueeze()"),
        (lambda: np.zeros_like(T), "np.zeros_like", "tinygrad_char.zeros_like(x)"),
        (lambda: np.isnan(T), "np.isnan", "x.isnan()"),
        (lambda: np.add.reduce(T), "np.add.reduce", "x.detach().numpy()"),
        (lambda: np.cbrt(T), "np.cbrt", "no such operation"),
    ],
)
def test_the_error_says_what_to_call(call, name, instead):
    with pytest.raises(TypeError) as error:
        call()
    assert str(error.value).startswith(f"{name}: ")
    assert instead in str(error.value)
    assert "x.detach().numpy()" in str(error.value)


def test_every_name_that_is_given_as_advice_is_there():
    for name in dir(np):
        function = getattr(np, name)
        if isinstance(function, np.ufunc) and function.nin == 1:
            with pytest.raises(TypeError) as error:
                function(T)
            words = str(error.value)
            for method in [each.split("(")[0] for each in words.split("x.")[1:]]:
                assert hasattr(Tensor, method), words
            for each in words.split("tinygrad_char.")[1:]:
                assert callable(getattr(tg, each.split("(")[0])), words


def test_functions_without_an_operation_compute_on_the_values():
    values = T.detach()
    assert np.median(values) == 2.5
    assert np.shape(T) == (2, 2)
    assert np.ndim(T) == 2
    assert np.allclose(values, values.numpy())
    assert np.array_equal(values, values.numpy())
    np.testing.assert_allclose(np.linalg.inv(values) @ values.numpy(), np.eye(2), atol=1e-12)
    with pytest.raises(RuntimeError, match="detach"):
        np.median(T)


def test_an_array_is_not_written_to_by_an_operator():
    array = np.ones((2, 2))
    with pytest.raises(TypeError, match=r"array = array \+ tensor, or array \+= tensor.detach"):
        array += T
    assert array.tolist() == [[1, 1], [1, 1]]
    result = array + T
    assert result.requires_grad
    assert (np.float64(2) * T).requires_grad
    assert (array < T).tolist() == [[False, True], [True, True]]
    assert [each.tolist() for each in divmod(np.array([[5.0, 5]]), T)] == [
        [[5, 2], [1, 1]],
        [[0, 1], [2, 1]],
    ]


def test_cupy_is_told_to_leave_operators_to_tensors():
    # CuPy asks the instance, NumPy the type.
    assert T.__array_ufunc__ is None
    assert callable(Tensor.__array_ufunc__)
