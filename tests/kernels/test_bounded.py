"""The kernels, as far as they can be tested without a GPU; `tests/gpu/test_kernels.py` has what only one shows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from secura.kernels.fused_norm import fused_norm
from secura.numerics.s_magnorm import Bounded

NEEDS_TRITON = "needs Triton, which torch brings along where it is made for GPUs"


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_away_from_a_gpu_the_plain_form_stands(device: str) -> None:
    assert fused_norm(Bounded(tau=0.5, floor=0.05), torch.ones(2, 3, device=device)) is None


def test_in_tritons_interpreter_the_kernels_find_what_the_plain_form_finds() -> None:
    pytest.importorskip("triton", minversion="3.7", reason=NEEDS_TRITON)  # older interpreters fail at numpy 2.4
    path = Path(__file__).with_name("in_the_interpreter.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", str(path)],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("kernel", ["_constrain", "_gradient_of_left"])
def test_they_compile_for_a_gpu_that_is_not_here(kernel: str, capability: int) -> None:
    triton = pytest.importorskip("triton", minversion="3.3", reason=NEEDS_TRITON)

    from secura.kernels import bounded

    sizes = {"ROWS": 64, "COLUMNS": 64, "COLUMNS_AT_ONCE": 512, "RANKS": 16, "MOST_RANKS": 64, "LESS": "reference"}
    matrices = {"result", "reference", "less", "gradient", "left", "right"}
    function = getattr(bounded, kernel)
    signature = {
        name: "constexpr"
        if name in sizes
        else "*bf16"
        if name in matrices
        else {"parts": "*fp32", "smallest": "*fp32", "tau": "fp32"}.get(name, "i32")
        for name in function.arg_names
    }
    compiled = triton.compile(
        triton.compiler.ASTSource(
            function, signature, constexprs={name: size for name, size in sizes.items() if signature.get(name)}
        ),
        target=triton.backends.compiler.GPUTarget("cuda", capability, 32),
        options={"num_warps": 8, "enable_fp_fusion": True},
    )
    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= 48 * 1024  # what any card gives a block
