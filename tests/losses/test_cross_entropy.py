"""The nested cross-entropy in one pass against its definition, the loop over dims."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from mrl_experiments.errors import UserError
from mrl_experiments.losses.cross_entropy import (
    NestedLosses,
    nested_cross_entropy,
    nested_cross_entropy_loop,
)

RECIPE = {"teach_alone": 1, "distillation": torch.tensor([0.0, 0.5, 0.0])}  # for three dims


class Problem:
    """Random features, classifiers and labels; `loop` is Eq. 1 size by size."""

    def __init__(self, dims, *, tied, bias=True, batch=7, classes=5, width=None, dtype=torch.float64, seed=0):
        self.dims, self.tied = tuple(dims), tied
        generator = torch.Generator().manual_seed(seed)
        width = width or self.dims[-1]

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

        self.z = draw(batch, width)
        self.weight = draw(classes, width) if tied else [draw(classes, dim) for dim in dims]
        self.bias = None if not bias else draw(classes) if tied else [draw(classes) for _ in dims]
        self.y = torch.randint(classes, (batch,), generator=generator)
        self.c = torch.rand(len(dims), generator=generator).to(dtype) + 0.1

    @property
    def inputs(self):
        weights = [self.weight] if self.tied else self.weight
        biases = [] if self.bias is None else [self.bias] if self.tied else self.bias
        return [self.z, *weights, *biases]

    def fused(self, **options):
        return nested_cross_entropy(
            self.z, self.weight, self.bias, self.y, self.dims, loss_weights=self.c, **options
        )

    def level(self, index):
        dim = self.dims[index]
        weight = self.weight[:, :dim] if self.tied else self.weight[index]
        bias = self.bias if self.tied or self.bias is None else self.bias[index]
        return F.linear(self.z[..., :dim], weight, bias)

    def loop(self, class_weight=None, sample_weight=None, **options):
        z, y = self.z.flatten(0, -2), self.y if self.y.is_floating_point() else self.y.flatten()
        given = z, self.weight, self.bias, y, self.dims
        if sample_weight is None:
            return nested_cross_entropy_loop(*given, class_weight=class_weight, **options)
        losses = nested_cross_entropy_loop(*given, class_weight=class_weight, reduction="none", **options)
        soft = class_weight is None or y.is_floating_point()
        return losses @ sample_weight / (sample_weight if soft else sample_weight * class_weight[y]).sum()

    def gradients(self, result, scale=1):
        """Of what `fused` or `loop` returned, by all inputs; `scale` is what follows the loss."""
        losses = result.total if isinstance(result, NestedLosses) else result @ self.c.to(result.dtype)
        return torch.autograd.grad(losses * scale, self.inputs, allow_unused=True)


def assert_same(problem, atol, chunk_bytes=1 << 28, **options):
    fused, loop = problem.fused(**options, chunk_bytes=chunk_bytes), problem.loop(**options)
    torch.testing.assert_close(fused.losses, loop, atol=atol, rtol=atol)
    torch.testing.assert_close(fused.total, loop @ problem.c, atol=atol, rtol=atol)
    for ours, theirs in zip(problem.gradients(fused), problem.gradients(loop), strict=True):
        torch.testing.assert_close(ours, theirs, atol=atol, rtol=atol)


cases = st.fixed_dictionaries(
    {
        "dims": st.sets(st.integers(1, 40), min_size=1, max_size=6).map(sorted),
        "tied": st.booleans(),
        "bias": st.booleans(),
        "batch": st.integers(1, 17),
        "classes": st.integers(1, 40),
        "seed": st.integers(0, 1000),
    }
)


@settings(max_examples=60, deadline=None)
@given(
    case=cases,
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
    alone=st.integers(0, 6),
    share=st.sampled_from([None, 0.0, 0.5]),
    budget=st.sampled_from([1, 1 << 28]),
    weighted=st.booleans(),
    labels=st.sampled_from(["all", "some ignored", "probabilities"]),
)
def test_equals_the_loop_in_float64(case, smoothing, alone, share, budget, weighted, labels):
    problem = Problem(**case)
    options = {"label_smoothing": smoothing, "teach_alone": alone}
    if share is not None:
        options["distillation"] = share * torch.arange(len(problem.dims)) / len(problem.dims)
    if labels == "probabilities":
        problem.y = torch.rand(len(problem.y), case["classes"], dtype=torch.float64).softmax(1)
    elif labels == "some ignored":
        problem.y[1::2] = -100
    if weighted:
        options["class_weight"] = torch.rand(case["classes"], dtype=torch.float64) + 0.1
    assert_same(problem, 1e-12, budget, **options)


@settings(max_examples=30, deadline=None)
@given(case=cases, batch=st.integers(2, 30), budget=st.integers(1, 4000), alone=st.integers(0, 7))
def test_columns_of_dims_that_teach_alone_learn_from_nothing_else(case, batch, budget, alone):
    problem = Problem(**{**case, "batch": batch})
    ours = problem.gradients(problem.fused(teach_alone=alone, chunk_bytes=budget))
    each = [  # what every loss alone gives
        torch.autograd.grad(loss * c, problem.inputs, retain_graph=True, materialize_grads=True)
        for loss, c in zip(problem.loop(), problem.c, strict=True)
    ]
    wanted = problem.gradients(problem.loop())
    for place, of_all in enumerate(wanted):
        columns_alone = place == 0 or (problem.tied and place == 1)
        if not columns_alone:  # classifiers of their own, biases
            torch.testing.assert_close(ours[place], of_all, atol=1e-12, rtol=1e-10)
            continue
        start = 0
        for k, dim in enumerate(problem.dims):
            teachers = each[k : k + 1] if k < alone else each[k:]
            taught = sum(of_dim[place][:, start:dim] for of_dim in teachers)
            torch.testing.assert_close(ours[place][:, start:dim], taught)
            start = dim


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("options", [{}, RECIPE], ids=["eq1", "recipe"])
def test_half_precision(tied, options):
    problem = Problem((8, 64, 256), tied=tied, batch=64, classes=100, width=300, dtype=torch.float32)
    wanted = problem.gradients(problem.loop(**options))
    with torch.autocast("cpu", torch.bfloat16):
        ours = problem.gradients(problem.fused(**options))
    assert all(gradient.dtype == torch.float32 for gradient in ours)
    assert all((a - b).norm() < 0.03 * b.norm() for a, b in zip(ours, wanted, strict=True))


@settings(max_examples=60, deadline=None)
@given(case=cases, smoothing=st.sampled_from([0.0, 0.1]))
def test_float32_is_within_1e_6_of_the_exact_loop(case, smoothing):
    exact = Problem(**case, dtype=torch.float64)
    single = Problem(**case, dtype=torch.float32)
    out = single.fused(label_smoothing=smoothing)
    wanted = exact.loop(label_smoothing=smoothing)
    scale = max(case["dims"][-1] ** 0.5, float(wanted.detach().max()))  # the spread of the logits, or more
    assert (out.losses.double() - wanted).abs().max() < 1e-6 * scale
    for ours, theirs in zip(single.gradients(out), exact.gradients(wanted), strict=True):
        assert (ours.double() - theirs).abs().max() < 1e-6 * scale


@settings(max_examples=40, deadline=None)
@given(case=cases, budget=st.integers(1, 4000), smoothing=st.sampled_from([0.0, 0.1]), ignored=st.booleans())
def test_chunks_change_nothing(case, budget, smoothing, ignored):
    problem = Problem(**{**case, "batch": 3 * case["batch"]})
    if ignored:
        problem.y[0] = -100
    assert_same(problem, 1e-12, label_smoothing=smoothing, chunk_bytes=budget)
    assert torch.equal(problem.fused(chunk_bytes=budget).correct, problem.fused().correct)


@settings(max_examples=60, deadline=None)
@given(
    case=cases,
    soft=st.booleans(),
    class_weight=st.booleans(),
    sample_weight=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.1]),
)
def test_soft_targets_and_weights(case, soft, class_weight, sample_weight, smoothing):
    problem = Problem(**case)
    generator = torch.Generator().manual_seed(1)
    classes, batch = case["classes"], case["batch"]

    def draw(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    if soft:
        problem.y = draw(batch, classes).softmax(1)
    options = {
        "label_smoothing": smoothing,
        "class_weight": draw(classes) + 0.1 if class_weight else None,
        "sample_weight": draw(batch) + 0.1 if sample_weight else None,
    }
    assert_same(problem, 1e-11, **options)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_definition_is_torch_s_mean_of_each_dim(soft, smoothing):
    problem = Problem((2, 8), tied=True, batch=12)
    if soft:
        problem.y = torch.rand(12, 5, dtype=torch.float64).softmax(1)
    weight = torch.rand(5, dtype=torch.float64) + 0.1
    wanted = [
        F.cross_entropy(problem.level(k), problem.y, weight=weight, label_smoothing=smoothing) for k in (0, 1)
    ]
    torch.testing.assert_close(
        problem.loop(class_weight=weight, label_smoothing=smoothing), torch.stack(wanted)
    )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradcheck(tied, smoothing):
    problem = Problem((1, 3, 6), tied=tied, width=8)
    problem.y[2] = -100

    def loss(z, *parameters):
        problem.z = z
        problem.weight = parameters[0] if tied else parameters[:3]
        problem.bias = parameters[1] if tied else parameters[3:]
        return problem.fused(label_smoothing=smoothing).total

    assert torch.autograd.gradcheck(loss, problem.inputs)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("ignored", [-100, 0, 3])
def test_ignored_labels_carry_no_loss(tied, ignored):
    problem = Problem((2, 8), tied=tied, batch=12)
    problem.y[::3] = ignored
    assert_same(problem, 1e-12, ignore_index=ignored)
    out = problem.fused(ignore_index=ignored)
    kept = problem.y != ignored
    assert out.counted == kept.sum()
    hits = torch.stack([(problem.level(i).argmax(1) == problem.y)[kept].sum() for i in range(2)])
    assert torch.equal(out.correct, hits.float())


def test_a_batch_without_labels_has_zero_loss_and_gradient():
    problem = Problem((2, 8), tied=True)
    problem.y[:] = -100
    out = problem.fused()
    assert torch.equal(out.losses, torch.zeros(2, dtype=torch.float64))
    assert all(not gradient.any() for gradient in problem.gradients(out))


@pytest.mark.parametrize("tied", [False, True])
def test_tokens_need_no_reshaping(tied):
    problem = Problem((2, 4, 8), tied=tied, batch=12)
    flat = problem.fused().losses
    problem.z = problem.z.detach().reshape(3, 4, 8).requires_grad_()
    problem.y = problem.y.reshape(3, 4)
    out = problem.fused()
    torch.testing.assert_close(out.losses, flat)
    assert problem.gradients(out)[0].shape == (3, 4, 8)


@pytest.mark.parametrize("tied", [False, True])
def test_features_beyond_the_largest_size_get_no_gradient(tied):
    problem = Problem((2, 4), tied=tied, width=8)
    dz, dweight, *_ = problem.gradients(problem.fused())
    assert not dz[:, 4:].any()
    assert dz[:, :4].all()
    if tied:
        assert not dweight[:, 4:].any()


def test_logits_far_apart_stay_finite_and_exact():
    problem = Problem((1, 2), tied=True, bias=False, dtype=torch.float32)
    problem.weight = (problem.weight.detach() * 1e4).requires_grad_()
    assert_same(problem, 1e-6)
    assert problem.fused().losses.min() > 1e3  # some labels have probability 0 in float32


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("row", [0, 5, 11])
def test_one_label_of_no_probability_keeps_its_loss_whatever_chunk_it_is_in(tied, row):
    problem = Problem((1, 2), tied=tied, bias=False, batch=12, dtype=torch.float32)
    problem.z.data[row] *= 1e4
    problem.y[row] = problem.level(0)[row].argmin()
    assert_same(problem, 1e-6, chunk_bytes=200)  # a few samples
    assert problem.fused().losses[0] > 100


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", ["whole", "chunks"])
@pytest.mark.parametrize("offset", [-1000, -700, -500, 500, 700, 1000])  # exp overflows at 709
def test_logits_far_from_zero(tied, smoothing, rows, offset):
    problem = Problem((2, 8), tied=tied, batch=12)
    biases = [problem.bias] if tied else problem.bias[:1]  # of the separate sizes, one is far off
    for bias in biases:
        bias.data += offset
    chunk_bytes = 400 if rows == "chunks" else 1 << 28
    assert_same(problem, 1e-11, label_smoothing=smoothing, chunk_bytes=chunk_bytes)
    hits = torch.stack([(problem.level(i).argmax(1) == problem.y).sum() for i in range(2)])
    assert torch.equal(problem.fused().correct, hits.float())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("offset", [-101, -90, -80, -60, 60, 80, 90, 101])  # exp overflows at 88.7
@pytest.mark.parametrize("row", [None, 3])
def test_logits_far_from_zero_in_single_precision(tied, offset, row):
    exact, single = (
        Problem((2, 8), tied=tied, batch=12, bias=False, width=9, dtype=dtype)
        for dtype in (torch.float64, torch.float32)
    )
    for problem in (exact, single):  # the first feature moves all logits of a sample
        problem.z.data[:, 0] = 0
        problem.z.data[slice(None) if row is None else row, 0] = offset
        for weight in [problem.weight] if tied else problem.weight:
            weight.data[:, 0] = 1
    wanted, out = exact.loop(), single.fused()
    assert (out.losses.double() - wanted).abs().max() < 2e-5  # of logits that end at 8e-6
    for ours, theirs in zip(single.gradients(out), exact.gradients(wanted), strict=True):
        assert (ours.double() - theirs).norm() < 2e-5 * theirs.norm()


def test_a_label_far_below_the_highest_logit_keeps_its_loss():
    z, weight = torch.ones(1, 1), torch.tensor([[-55.0], [55.0]], requires_grad=True)
    out = nested_cross_entropy(z, weight, None, torch.tensor([0]), (1,))
    out.total.backward()
    assert out.losses.item() == 110
    torch.testing.assert_close(weight.grad, torch.tensor([[-1.0], [1.0]]))


@pytest.mark.parametrize("tied", [False, True])
def test_a_loss_scale_keeps_the_small_gradients_of_half_precision(tied):
    """Of words that a batch lacks each gradient is tiny: as exact as torch's own under a loss scale."""
    problem = Problem((8, 32), tied=tied, bias=False, batch=2048, classes=4096, dtype=torch.float32)
    problem.y %= 16
    for weight in [problem.weight] if tied else problem.weight:
        weight.data *= 0.1
    problem.z.data.abs_()  # so that what each sample adds does not cancel
    wanted = problem.gradients(problem.loop())
    with torch.autocast("cpu", torch.float16):
        ours = problem.gradients(problem.fused(), scale=65536.0)
    for got, right in zip(ours[1:], wanted[1:], strict=True):
        absent = right[16:]
        assert (got[16:] / 65536 - absent).norm() < 1e-3 * absent.norm()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("options", [{}, RECIPE], ids=["eq1", "recipe"])
def test_an_ignored_sample_may_hold_anything(tied, options):
    problem = Problem((2, 4, 8), tied=tied, batch=12)
    problem.y[::3] = -100
    wanted = problem.gradients(problem.fused(**options))
    problem.z.data[::3] = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e300])[:, None]
    out = problem.fused(**options)
    assert out.losses.isfinite().all()
    for ours, theirs in zip(problem.gradients(out), wanted, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("label", [-1, 5, 4096, -101])
def test_labels_that_are_no_class_are_refused(label):
    problem = Problem((2, 8), tied=True)
    problem.y[3] = label
    with pytest.raises(UserError, match=f"label {label}(.|\n)*0 to 4"):
        problem.fused()


@pytest.mark.parametrize("tied", [False, True])
def test_what_is_not_a_number_stays_so(tied):
    problem = Problem((2, 8), tied=tied)
    problem.z.data[1, 4] = torch.nan
    out = problem.fused()
    assert out.losses.isnan().tolist() == [False, True]
    assert problem.gradients(out)[0][1].isnan().any()


@pytest.mark.parametrize("tied", [False, True])
def test_no_samples(tied):
    problem = Problem((2, 8), tied=tied, batch=0)
    out = problem.fused()
    assert torch.equal(out.losses, torch.zeros(2, dtype=torch.float64))
    assert out.counted == 0
    assert not any(gradient.any() for gradient in problem.gradients(out))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("loss_weights", [(0.0, 1.0), (1.0, 0.0), (-0.5, 2.0), (0.0, 0.0)])
def test_any_loss_weights(tied, loss_weights):
    problem = Problem((2, 8), tied=tied)
    problem.c = torch.tensor(loss_weights, dtype=torch.float64)
    assert_same(problem, 1e-12)


def test_a_tie_is_not_correct():
    z, y = torch.ones(4, 2), torch.tensor([0, 1, 2, 2])
    weight = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    out = nested_cross_entropy(z, weight, None, y, (1, 2))
    assert out.correct.tolist() == [0, 0]
    above = torch.tensor([0.0, 0.0, 1.0])
    assert nested_cross_entropy(z, weight, above, y, (1, 2)).correct.tolist() == [2, 2]
    rounding = 5e-7 * above
    assert nested_cross_entropy(z, weight, rounding, y, (1, 2)).correct.tolist() == [0, 0]


@pytest.mark.parametrize("frozen", ["z", "classifiers", "one size"])
def test_only_what_is_trained_gets_gradients(frozen):
    problem = Problem((2, 8), tied=False)
    wanted = problem.gradients(problem.loop())
    still = {"z": [0], "classifiers": [1, 2, 3, 4], "one size": [1, 3]}[frozen]
    for index in still:
        problem.inputs[index].requires_grad_(False)
    problem.fused().total.backward()
    for index, (tensor, gradient) in enumerate(zip(problem.inputs, wanted, strict=True)):
        if index in still:
            assert tensor.grad is None
        else:
            torch.testing.assert_close(tensor.grad, gradient)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("options", [{}, RECIPE], ids=["eq1", "recipe"])
def test_backward_can_be_repeated(tied, options):
    problem = Problem((2, 4, 8), tied=tied)
    total = problem.fused(**options).total
    first = torch.autograd.grad(total * 3, problem.inputs, retain_graph=True)
    second = torch.autograd.grad(total, problem.inputs)
    assert all(torch.allclose(a, 3 * b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("tied", [False, True])
def test_what_follows_the_loss_scales_its_gradients(tied):
    problem = Problem((2, 8), tied=tied)
    wanted = problem.gradients(problem.loop(), scale=-0.25)
    for ours, theirs in zip(problem.gradients(problem.fused(), scale=-0.25), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("tied", [False, True])
def test_two_losses_before_their_backward_passes(tied):
    """Each keeps its own gradients, whatever memory they were made in."""
    problems = [Problem((2, 8), tied=tied, seed=seed) for seed in (0, 1)]
    outs = [problem.fused() for problem in problems]
    for problem, out in zip(problems, outs, strict=True):
        for ours, theirs in zip(problem.gradients(out), problem.gradients(problem.loop()), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_without_gradients_the_values_are_the_same():
    problem = Problem((2, 8), tied=True)
    with torch.no_grad():
        out = problem.fused()
    assert not out.total.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(out, problem.fused(), strict=True))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_as_exact_as_the_loop_under_autocast(tied, dtype):
    errors = torch.zeros(2)
    for seed in range(8):
        single = Problem((4, 16, 64), tied=tied, batch=64, classes=50, dtype=torch.float32, seed=seed)
        wanted = single.gradients(single.loop())
        with torch.autocast("cpu", dtype):
            fused, loop = single.fused(), single.loop()
        assert fused.losses.dtype == torch.float32
        torch.testing.assert_close(fused.losses, single.loop(), atol=0.02, rtol=0.02)
        for own, losses in enumerate((fused, loop)):
            for got, right in zip(single.gradients(losses), wanted, strict=True):
                errors[own] += (got - right).norm()
    assert errors[0] < 1.1 * errors[1]


@pytest.mark.parametrize("tied", [False, True])
def test_low_precision_parameters_get_gradients_of_their_own_type(tied):
    problem = Problem((4, 16), tied=tied, dtype=torch.bfloat16)
    gradients = problem.gradients(problem.fused())
    assert all(gradient.dtype == torch.bfloat16 for gradient in gradients)


def test_chunks_under_autocast_accumulate_in_float32():
    single = Problem((4, 16), tied=True, batch=32, classes=200, dtype=torch.float32)
    wanted = single.gradients(single.loop())
    with torch.autocast("cpu", torch.bfloat16):
        out = single.fused(chunk_bytes=1)
    for ours, exact in zip(single.gradients(out), wanted, strict=True):
        assert (ours - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("tied", [False, True])
def test_activation_checkpointing(tied):
    problem = Problem((2, 8), tied=tied)
    out = checkpoint(problem.fused, use_reentrant=False)
    for ours, theirs in zip(problem.gradients(out), problem.gradients(problem.loop()), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("budget", [1 << 28, 4096])
def test_compile(tied, budget):
    torch.compiler.reset()
    problem = Problem((4, 16, 32), tied=tied, classes=50, dtype=torch.float32)
    compiled = torch.compile(lambda: problem.fused(label_smoothing=0.1, chunk_bytes=budget).total * 2)
    total = compiled() / 2
    wanted = problem.loop(label_smoothing=0.1)
    torch.testing.assert_close(total, wanted @ problem.c)
    gradients = torch.autograd.grad(total, problem.inputs)
    for ours, theirs in zip(gradients, problem.gradients(wanted), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{}, RECIPE], ids=["eq1", "recipe"])
def test_cuda_gives_what_the_cpu_gives(tied, dtype, options):
    problem = Problem((8, 64, 256), tied=tied, batch=64, classes=100, dtype=torch.float32)
    wanted = problem.gradients(problem.loop(**options))
    options = {name: value.cuda() if torch.is_tensor(value) else value for name, value in options.items()}
    for name in ("z", "weight", "bias", "y", "c"):
        value = getattr(problem, name)
        moved = (
            [v.detach().cuda().requires_grad_() for v in value] if isinstance(value, list) else value.cuda()
        )
        if torch.is_tensor(moved) and moved.is_floating_point() and name != "c":
            moved = moved.detach().requires_grad_()
        setattr(problem, name, moved)
    with torch.autocast("cuda", dtype or torch.float16, enabled=dtype is not None):
        out = problem.fused(**options)
    tolerance = 1e-4 if dtype is None else 0.03
    for ours, theirs in zip(problem.gradients(out), wanted, strict=True):
        assert (ours.cpu() - theirs).norm() < tolerance * theirs.norm()
