"""The fused kernel: its sums against SciPy's, its biases against the other kernels'.

Where there is no GPU Triton's interpreter runs it, and the compiler is asked what it makes of it.
"""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from oracles import cone_pair
from scipy.special import logsumexp

pytest.importorskip("triton", reason="the fused kernel needs pip install triton")

import triton

from emcl_plugin import rescore
from emcl_plugin.errors import InputValueError
from emcl_plugin.ncl import NCL, Problem, fit_biases, fused_lse
from emcl_plugin.pipeline.job import Job
from emcl_plugin.pipeline.settings import Settings
from emcl_plugin.scores import Dense, FeaturePair, Features, LowRank, OutOfMemory

# Triton 3.0's interpreter and NumPy
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # the CPU's is Triton's interpreter
FUSED = NCL(solver="fused", temperature_std=0.15)
BLOCKS = NCL(solver="blocks", temperature_std=0.15)


def unit(n, dimension, seed, dtype=torch.float32):
    x = torch.randn(n, dimension, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(x, dim=1).to(device=DEVICE, dtype=dtype)


def pair(n_text=90, n_video=70, dimension=24, dtype=torch.float32, **settings):
    sides = cone_pair(n_text, n_video, dimension, seed=0)
    return FeaturePair(
        *(Features(x, dtype=dtype, device=DEVICE, **settings) for x in map(torch.from_numpy, sides))
    )


def changed(base):
    """A change of rank 2 with lengths made anew, as EMCL's is."""
    torch.manual_seed(1)
    left, right = (0.3 * torch.randn(n, 2, device=DEVICE) for n in base.shape)
    return LowRank(base, left, right, *(torch.rand(n, device=DEVICE) + 0.5 for n in base.shape))


def check_lse(x, y, bias, scale, tolerance=1e-6):
    """To what float32 can tell of the largest exponents."""
    products = x.double().cpu().numpy() @ y.double().cpu().numpy().T
    wanted = logsumexp(scale * products + bias.double().cpu().numpy(), axis=1)
    found = fused_lse.row_lse(x, y, bias, scale)
    assert (found.dtype, found.device) == (torch.float32, x.device)
    assert_allclose(found.cpu(), wanted, rtol=0, atol=tolerance * (scale + 10))


@given(
    n_x=st.integers(1, 140),
    n_y=st.integers(1, 270),
    dimension=st.integers(1, 70),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    scale=st.sampled_from([0.1, 5.0, 100.0]),
    programs=st.sampled_from([1, 2, 1024]),
    seed=st.integers(0, 9),
)
def test_sums_are_those_of_scipy(n_x, n_y, dimension, dtype, scale, programs, seed):
    """Of any size, in any number of parts; products of bfloat16 are exact in float32."""
    bias = 3 * torch.randn(n_y, generator=torch.Generator().manual_seed(seed)).to(DEVICE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_lse, "PROGRAMS", programs)
        sides = (unit(n, dimension, seed + i, dtype) for i, n in enumerate((n_x, n_y)))
        check_lse(*sides, bias, scale)


@pytest.mark.parametrize("bias", [-1e4, 1e4])
def test_sums_far_from_one_stay_in_range(bias):
    """Exponents whose exponentials no float holds."""
    x, y = unit(5, 8, 0), unit(300, 8, 1)
    found = fused_lse.row_lse(x, y, torch.full((300,), bias, device=DEVICE), 20.0)
    wanted = torch.logsumexp(20 * x.double() @ y.double().T, 1) + bias
    assert_allclose(found.cpu(), wanted.cpu(), rtol=1e-6)


def test_tf32_is_used_where_torch_may_use_it():
    assert not fused_lse.tf32_is_allowed()
    torch.set_float32_matmul_precision("high")
    try:
        assert fused_lse.tf32_is_allowed()
        check_lse(unit(9, 8, 0), unit(200, 8, 1), torch.zeros(200, device=DEVICE), 5.0, 1e-3)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert not fused_lse.tf32_is_allowed()


@pytest.mark.parametrize("source", [pair(), changed(pair())], ids=["features", "EMCL"])
@pytest.mark.parametrize("rho", [1.0, 0.65])
def test_biases_are_those_of_blocks(source, rho):
    """With marginals and weights, to 1e-5 of the scores' units, in as many iterations."""
    n_text, n_video = source.shape
    weights = torch.rand(n_text, device=DEVICE) + 0.5
    marginal = np.linspace(1, 2, n_video)
    found, wanted = (
        fit_biases(source, NCL(solver=name, rho=rho, video_marginal=marginal), weights=weights)
        for name in ("fused", "blocks")
    )
    assert (found.solver, wanted.solver) == ("fused", "blocks")
    assert found.iterations == wanted.iterations > 5
    for side in ("text", "video"):
        x, y = (getattr(biases, side).cpu() for biases in (found, wanted))
        assert_allclose(x, y, rtol=0, atol=1e-5)


def test_products_in_bfloat16_are_off_by_their_bound():
    """As where scores are recomputed in blocks: 0.006, and not nothing."""
    wanted = fit_biases(pair(), FUSED)
    found = fit_biases(pair(), NCL(solver="fused", products="bfloat16"))
    off = (found.video - wanted.video).abs().max()
    assert 1e-5 < off <= 0.006


def test_a_whole_run_is_that_of_blocks():
    """Nothing is stored for it, although it would fit."""
    sides = tuple(torch.from_numpy(x).float().to(DEVICE) for x in cone_pair(90, 70, 24, seed=0))
    assert not Job(None, sides, Settings(ncl=FUSED)).plan.store_scores
    found, wanted = (rescore(None, sides, ncl=config) for config in (FUSED, BLOCKS))
    assert (found.biases.solver, wanted.biases.solver) == ("fused", "blocks")
    assert_allclose(found.scores.cpu(), wanted.scores.cpu(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "source",
    [
        Dense(pair().dense()),
        pair(dtype=torch.float64),
        pair(memory=100),
        changed(Dense(pair().dense())),
    ],
    ids=["a matrix", "float64", "little memory", "a matrix after EMCL"],
)
def test_other_scores_are_recomputed_in_blocks(source):
    assert Problem(source, FUSED).solver == "blocks"


def test_where_a_gpu_has_no_room_for_the_vectors_it_is_blocks(monkeypatch):
    def full(*_):
        raise OutOfMemory("no room")

    monkeypatch.setattr("emcl_plugin.ncl.kernels.FusedKernel", full)
    assert Problem(pair(), FUSED).solver == "blocks"


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    source = Dense(pair().dense().cpu())
    with pytest.raises(InputValueError, match=r"needs a GPU\n.*device='cpu'\n.*leave solver out"):
        Problem(source, FUSED)


def test_without_triton_it_says_so(monkeypatch):
    monkeypatch.setattr("emcl_plugin.ncl.fused_kernel.find_spec", lambda _: None)
    with pytest.raises(InputValueError, match=r"needs Triton\n.*\n.*pip install triton"):
        Problem(pair(), FUSED)


COMPILE = """
import json, subprocess, sys, tempfile
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from emcl_plugin.ncl.fused_lse import LAUNCH, TILES, row_lse_kernel

names = row_lse_kernel.arg_names
found = {}
for chip in map(int, sys.argv[1:]):
    for products, tile in TILES.items():
        vectors = "*bf16" if products == "bfloat16" else "*fp32"
        signature = dict.fromkeys(names, "i32")
        signature |= {"x": vectors, "y": vectors, "bias": "*fp32", "out": "*fp32", "scale": "fp32"}
        fixed = dict(zip(names[-4:], (*tile, products if products == "tf32x3" else "tf32")))
        signature |= dict.fromkeys(fixed, "constexpr")
        whole = {(names.index(x),): [["tt.divisibility", 16]] for x in ("x", "y", "dimension")}
        made = triton.compile(
            ASTSource(row_lse_kernel, signature, fixed, whole),
            target=GPUTarget("cuda", chip, 32),
            options=LAUNCH,
        )
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(made.asm["cubin"])
            file.flush()
            tool = triton.knobs.nvidia.cuobjdump.path
            usage = subprocess.run(
                [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
            ).stdout
        found[f"{chip} {products}"] = made.metadata.shared, "STACK:0 " in usage
print(json.dumps(found))
"""


@pytest.mark.skipif(not hasattr(triton, "knobs"), reason="needs Triton 3.4 to ask its compiler")
def test_it_compiles_for_gpus_without_spilling(tmp_path):
    """For Ampere, Ada and Hopper; shared memory within what the smallest of them has."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILE, "80", "89", "90"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "TRITON_CACHE_DIR": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 9
    for shared, without_stack in found.values():
        assert 16 << 10 < shared <= 99 << 10
        assert without_stack
