"""The kernels on a GPU, held to the plain form there, and counted."""

import pytest
import torch
from adapted_models import adapted, first_layer, small_config, two_linears
from torch import Tensor
from torch.autograd import grad
from torch.autograd.profiler import DeviceType
from torch.profiler import ProfilerActivity, profile

from secura.kernels.fused_norm import fused_norm
from secura.numerics.change import ThinFactors
from secura.numerics.constrained_linear import FusedNorm, constrained_linear, constrained_weight
from secura.numerics.s_magnorm import Bounded, Paper

pytestmark = pytest.mark.gpu
NORM = Bounded(tau=0.15, floor=0.05)
OUT, WIDTH, TOKENS = 520, 1290, 200
ROUNDING = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}  # float16 keeps 11 bits, bfloat16 8


def kernels_of(reference: Tensor) -> FusedNorm:
    pytest.importorskip("triton")
    fused = fused_norm(NORM, reference)
    assert fused is not None, "Triton is here, but the kernels do not compile or find something else than torch"
    return fused


def drawn(*shapes: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]


def apart(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).detach().norm() / expected.detach().double().norm())


@pytest.mark.parametrize("rank", [3, 16, 100])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", ROUNDING)
def test_product_and_gradients_are_those_of_the_plain_form(
    dtype: torch.dtype, transposed: bool, rank: int, gpu: torch.device
) -> None:
    shapes = (TOKENS, WIDTH), (OUT, rank), (rank, WIDTH), (WIDTH, OUT)
    inputs, left, right, reference = drawn(*shapes, dtype=dtype, device=gpu)
    reference = reference.T if transposed else reference.T.contiguous()
    trained = [each.requires_grad_() for each in (inputs, left, right)]
    factors, upstream = ThinFactors(left, right), torch.ones(TOKENS, OUT, dtype=dtype, device=gpu)
    plain, ours = (
        constrained_linear(inputs, factors, reference, NORM, fused=fused) for fused in (None, kernels_of(reference))
    )
    assert apart(ours, plain) < ROUNDING[dtype]
    for one, other in zip(grad(ours, trained, upstream), grad(plain, trained, upstream), strict=True):
        assert apart(one, other) < ROUNDING[dtype]


def test_a_weight_is_one_kernel_and_the_gradient_of_a_factor_one_and_the_sum_of_its_parts(gpu: torch.device) -> None:
    reference, left, right, of_weight = drawn(
        (OUT, WIDTH), (OUT, 16), (16, WIDTH), (OUT, WIDTH), dtype=torch.bfloat16, device=gpu
    )
    factors, fused, measured = ThinFactors(left, right), kernels_of(reference), NORM.measure(reference)

    def weight() -> None:
        constrained_weight(factors, reference, NORM, measured=measured, dtype=torch.bfloat16, fused=fused)

    def gradient() -> None:
        fused.gradients(of_weight, factors, reference, measured, of_left=True, of_right=False)

    for work, own, most in ((weight, "_constrain", 1), (gradient, "_gradient_of_left", 3)):
        work()  # compiled by now
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            work()
            torch.cuda.synchronize()
        found = [event.name for event in profiled.events() if event.device_type == DeviceType.CUDA]
        assert sum(name.startswith(own) for name in found) == 1
        assert len(found) <= most  # the sum, and its conversion


def test_a_gradient_is_the_same_to_the_bit_every_time(gpu: torch.device) -> None:
    reference, left, right, of_weight = drawn(
        (OUT, WIDTH), (OUT, 16), (16, WIDTH), (OUT, WIDTH), dtype=torch.bfloat16, device=gpu
    )
    fused, measured = kernels_of(reference), NORM.measure(reference)
    first, *others = (
        fused.gradients(of_weight, ThinFactors(left, right), reference, measured, of_left=True, of_right=True)
        for _ in range(5)
    )
    assert all(torch.equal(one, two) for other in others for one, two in zip(first, other, strict=True))  # type: ignore[arg-type]


def test_a_layer_takes_the_kernels_where_its_norm_has_any(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = first_layer(adapted(two_linears(), small_config(norm="bounded")).to(gpu))
    fused, counted = type(kernels_of(layer.get_base_layer().weight)), []
    weight = fused.weight  # type: ignore[attr-defined]
    monkeypatch.setattr(fused, "weight", lambda *given, **named: counted.append(1) or weight(*given, **named))
    layer(torch.zeros(2, layer.in_features, device=gpu)).sum().backward()
    layer.effective_weight("default")
    assert len(counted) >= 2
    assert fused_norm(Paper(), layer.get_base_layer().weight) is None
    assert fused_norm(NORM, layer.get_base_layer().weight.double()) is None
