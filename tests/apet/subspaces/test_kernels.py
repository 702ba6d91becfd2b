"""Each contraction of the trilinear kernels equals its dense formula, and so do its derivatives of any order."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.graph import saved_tensors_hooks

from apet.subspaces import KERNELS, SparsityPattern, sampled_outer_product, sparse_matmul
from apet.subspaces.kernels import SAMPLE, SCATTER, product, scale

every_kernel = pytest.mark.parametrize("kernel", KERNELS)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, of: torch.Generator) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=of)


def positions(shape: tuple[int, int], k: int, of: torch.Generator) -> Tensor:
    return torch.randperm(shape[0] * shape[1], generator=of)[:k].sort().values


def dense(z: Tensor, shape: tuple[int, int], flat: Tensor) -> Tensor:
    return torch.zeros(shape[0] * shape[1], dtype=z.dtype).index_put((flat,), z).view(shape)


def sampled_from_dense(g: Tensor, x: Tensor, flat: Tensor) -> Tensor:
    return torch.einsum("ti,tj->ij", g.flatten(0, -2), x.flatten(0, -2)).flatten()[flat]


def exactly(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)


@every_kernel
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("tokens", [(7,), (2, 3), (2, 1, 4)])
def test_both_contractions_equal_the_dense_formula(kernel, share, tokens):
    of = draw()
    flat = positions((9, 6), k := max(1, int(share * 54)), of)
    entries = SparsityPattern.at((9, 6), flat, kernel)
    g, x, z = normal(*tokens, 9, of=of), normal(*tokens, 6, of=of), normal(k, of=of)
    exactly(sampled_outer_product(g, x, entries), sampled_from_dense(g, x, flat))
    exactly(sampled_outer_product(x, g, entries.transposed), sampled_from_dense(g, x, flat))
    exactly(sparse_matmul(z, x, entries), x @ dense(z, (9, 6), flat).t())
    exactly(sparse_matmul(z, g, entries.transposed), g @ dense(z, (9, 6), flat))


@pytest.mark.parametrize("seed", range(30))
def test_the_three_contractions_of_one_form_agree_at_any_shape(seed):
    of = draw(seed)
    m, n, batch, length = (int(size) for size in torch.randint(1, 13, (4,), generator=of))
    flat = positions((m, n), k := 1 + int(torch.randint(m * n, (), generator=of)), of)
    g, x, z = normal(batch, length, m, of=of), normal(batch, length, n, of=of), normal(k, of=of)
    form = (g * (x @ dense(z, (m, n), flat).t())).sum()
    for kernel in (None, *KERNELS):
        entries = SparsityPattern.at((m, n), flat, kernel)
        exactly(z @ sampled_outer_product(g, x, entries), form)
        exactly(z @ sampled_outer_product(x, g, entries.transposed), form)
        exactly((g * sparse_matmul(z, x, entries)).sum(), form)
        exactly((x * sparse_matmul(z, g, entries.transposed)).sum(), form)


@every_kernel
def test_entries_that_meet_no_token_get_zero(kernel):
    entries = SparsityPattern.at((5, 4), positions((5, 4), 6, draw()), kernel)
    x, z = torch.zeros(0, 4, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    assert torch.equal(sampled_outer_product(x.new_zeros(0, 5), x, entries), torch.zeros_like(z))
    assert sparse_matmul(z, x, entries).shape == (0, 5)


def test_the_transposed_of_the_transposed_are_the_entries():
    flat = positions((7, 5), 12, draw())
    back = SparsityPattern.at((7, 5), flat).transposed.transposed
    z = torch.arange(12)
    assert back.shape == (7, 5) and torch.equal(back.flat, flat)
    assert torch.equal(back.to_row_order(z), z) and torch.equal(back.to_z_order(z), z)


@every_kernel
@pytest.mark.parametrize("k", [1, 4, 12])
@pytest.mark.parametrize("side", ["entries", "transposed"])
def test_sample_and_scatter_have_right_first_and_second_derivatives(kernel, k, side):
    of = draw()
    entries = SparsityPattern.at((4, 3), positions((4, 3), k, of), kernel)
    entries = entries if side == "entries" else entries.transposed
    m, n = entries.shape
    g, x, z = (t.requires_grad_() for t in (normal(2, 2, m, of=of), normal(2, 2, n, of=of), normal(k, of=of)))
    for function, inputs in ((sampled_outer_product, (g, x)), (sparse_matmul, (z, x))):
        assert gradcheck(lambda a, b, f=function: f(a, b, entries), inputs)
        assert gradgradcheck(lambda a, b, f=function: f(a, b, entries), inputs)


@every_kernel
@pytest.mark.parametrize("k", [1, 4, 12])
@pytest.mark.parametrize("tokens", [(3,), (2, 2)])
def test_the_product_has_right_first_and_second_derivatives(kernel, k, tokens):
    of = draw()
    flat = positions((4, 3), k, of)
    entries, frozen = SparsityPattern.at((4, 3), flat, kernel), normal(4, 3, of=of)
    x, z, bias = (t.requires_grad_() for t in (normal(*tokens, 3, of=of), normal(k, of=of), normal(4, of=of)))

    def layer(x: Tensor, z: Tensor, *bias: Tensor) -> Tensor:
        return product(x, frozen + dense(z.detach(), (4, 3), flat), *bias or (None,), z, entries)

    for inputs in ((x, z), (x, z, bias)):
        assert gradcheck(layer, inputs)
        assert gradgradcheck(layer, inputs)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("tokens", [(3,), (2, 2)])
def test_the_scale_has_right_first_and_second_derivatives(k, tokens):
    of = draw()
    flat, frozen = positions((1, 5), k, of), normal(5, of=of)
    x, z = normal(*tokens, 5, of=of).requires_grad_(), normal(k, of=of).requires_grad_()

    def norm(x: Tensor, z: Tensor) -> Tensor:
        return scale(x, frozen.index_add(0, flat, z.detach()), z, flat)

    assert gradcheck(norm, (x, z))
    assert gradgradcheck(norm, (x, z))


@every_kernel
def test_the_third_derivative_is_the_dense_ones(kernel):
    of = draw()
    flat = positions((5, 5), 7, of)
    entries = SparsityPattern.at((5, 5), flat, kernel)
    frozen, x, start, v = normal(5, 5, of=of), normal(4, 5, of=of), normal(7, of=of), normal(7, of=of)

    def weight(z: Tensor) -> Tensor:
        return frozen + dense(z, (5, 5), flat)

    def third(layer: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        z = start.clone().requires_grad_()
        value = layer(torch.tanh(layer(x, z)), z).pow(2).sum()
        for _ in range(2):
            value = torch.autograd.grad(value, z, create_graph=True)[0] @ v
        return torch.autograd.grad(value, z)[0]

    exactly(third(lambda x, z: product(x, weight(z.detach()), None, z, entries)), third(lambda x, z: x @ weight(z).t()))


@every_kernel
def test_the_product_is_the_linear_layer_bitwise_and_has_no_graph_where_none_is_asked_for(kernel):
    of = draw()
    entries = SparsityPattern.at((6, 5), positions((6, 5), 8, of), kernel)
    x, weight, bias, z = normal(3, 4, 5, of=of), normal(6, 5, of=of), normal(6, of=of), normal(8, of=of)
    expected = F.linear(x, weight, bias)
    assert torch.equal(product(x, weight, bias, z, entries), expected)
    assert torch.equal(product(x, weight, bias, z.requires_grad_(), entries), expected)
    with torch.no_grad():
        assert product(x, weight, bias, z, entries).grad_fn is None


@every_kernel
@pytest.mark.parametrize("k", [2, 20])
def test_a_copy_of_z_for_each_example_gets_that_examples_gradient(kernel, k):
    of = draw()
    entries = SparsityPattern.at((5, 4), positions((5, 4), k, of), kernel)
    x, weight, z, v = normal(3, 2, 4, of=of), normal(5, 4, of=of), normal(k, of=of), normal(3, k, of=of)

    def gradients(z: Tensor, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient of z, and the derivative of its product with v."""
        z, x = z.clone().requires_grad_(), x.clone().requires_grad_()
        hidden = torch.tanh(product(x, weight, None, z, entries))
        loss = torch.sin(product(hidden, weight.t(), None, z, entries.transposed)).sum()
        (gradient,) = torch.autograd.grad(loss, z, create_graph=True)
        return gradient.detach(), torch.autograd.grad((gradient * v).sum(), x)[0]

    actual, mixed = gradients(z.expand(3, -1), x, v)
    alone = [gradients(z, x[i : i + 1], v[i]) for i in range(3)]
    exactly(actual, torch.stack([gradient for gradient, _ in alone]))
    exactly(mixed, torch.cat([one for _, one in alone]))


@pytest.mark.parametrize("side", ["entries", "transposed"])
def test_only_columns_that_occur_are_needed(side):
    of = draw()
    entries = SparsityPattern.at((40, 40), positions((40, 40), 6, of))
    entries = entries if side == "entries" else entries.transposed
    columns, compact = entries.needed
    assert columns.tolist() == sorted(set(entries.cols.tolist()))
    assert compact.shape == (40, len(columns)) and compact.kernel == entries.kernel
    g, x = normal(3, 40, of=of), normal(3, 40, of=of)
    exactly(sampled_outer_product(g, x[:, columns], compact), sampled_outer_product(g, x, entries))


def test_all_columns_are_needed_where_most_occur():
    entries = SparsityPattern.at((10, 8), positions((10, 8), 40, draw()))
    assert entries.needed == (None, entries)


@every_kernel
def test_the_product_saves_only_the_needed_columns(kernel):
    of = draw()
    few, every = (SparsityPattern.at((6, 50), positions((6, 50), k, of), kernel) for k in (5, 300))
    x, weight, z = normal(200, 50, of=of), normal(6, 50, of=of), normal(300, of=of)

    def saved(entries: SparsityPattern) -> list[Tensor]:
        kept: list[Tensor] = []
        with saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            product(x.requires_grad_(), weight, None, z[: entries.k].requires_grad_(), entries)
        return kept

    assert max(t.numel() for t in saved(few)) <= 200 * 5
    assert any(t.data_ptr() == x.data_ptr() for t in saved(every))  # x itself, not a copy


def test_the_choice_grows_from_gathered_to_sampled_to_dense():
    choices = [SparsityPattern.at((512, 512), torch.arange(k)).kernel for k in torch.logspace(0, 18, 60, base=2).int()]
    assert list(dict.fromkeys(choices)) == list(KERNELS)
    assert choices == sorted(choices, key=KERNELS.index)


@every_kernel
def test_an_override_is_obeyed_by_every_derivative(monkeypatch, kernel):
    called = set()
    for table in (SAMPLE, SCATTER):
        for name, function in list(table.items()):
            monkeypatch.setitem(table, name, lambda *a, name=name, function=function: called.add(name) or function(*a))
    of = draw()
    entries = SparsityPattern.at((6, 50), positions((6, 50), 5, of), kernel)
    x, weight, z = normal(4, 50, of=of).requires_grad_(), normal(6, 50, of=of), normal(5, of=of).requires_grad_()
    gradients = torch.autograd.grad(product(x, weight, None, z, entries).pow(3).sum(), (x, z), create_graph=True)
    torch.autograd.grad(sum(g.pow(2).sum() for g in gradients), (x, z))
    assert called == {kernel}


@every_kernel
@pytest.mark.parametrize("per_example", [False, True])
def test_bf16_inputs_give_an_fp32_gradient_within_bf16_rounding(kernel, per_example):
    of = draw()
    flat = positions((24, 16), 50, of)
    x, weight, g = (normal(*shape, of=of).bfloat16() for shape in ((4, 32, 16), (24, 16), (4, 32, 24)))
    z = torch.zeros(*(4, 50) if per_example else (50,), requires_grad=True)
    product(x, weight, None, z, SparsityPattern.at((24, 16), flat, kernel)).backward(g)
    by_example = [torch.stack([sampled_from_dense(a, b, flat) for a, b in zip(*p, strict=True)]) for p in
                  ((g.double(), x.double()), (g.double().abs(), x.double().abs()))]  # fmt: skip
    exact, size = by_example if per_example else (t.sum(0) for t in by_example)
    assert z.grad.dtype == torch.float32
    assert ((z.grad - exact).abs() <= 2**-8 * size).all()


@every_kernel
def test_bf16_inputs_give_a_bf16_output_within_its_rounding(kernel):
    of = draw()
    flat = positions((24, 16), 50, of)
    x, z = normal(32, 16, of=of).bfloat16(), normal(50, of=of).bfloat16()
    actual = sparse_matmul(z.float(), x, SparsityPattern.at((24, 16), flat, kernel))
    exact = x.double() @ dense(z.double(), (24, 16), flat).t()
    size = x.double().abs() @ dense(z.double().abs(), (24, 16), flat).t()
    assert actual.dtype == torch.bfloat16
    assert ((actual - exact).abs() <= 2**-7 * size).all()


def test_places_of_a_matrix_of_more_than_two_to_the_31_entries_are_right():
    flat = torch.tensor([3, 250_880 * 14_336 - 1])
    entries = SparsityPattern.at((250_880, 14_336), flat)
    assert torch.equal(entries.flat, flat) and entries.flat.dtype == torch.int64
    assert sorted(entries.transposed.flat.tolist()) == [3 * 250_880, 250_880 * 14_336 - 1]
