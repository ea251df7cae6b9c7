"""On a GPU, where there is one: the same results as on the CPU, on the device that came in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emcl_plugin import rerank, rerank_top, rescore
from emcl_plugin.data.demo import load_demo
from emcl_plugin.emcl.experts import Experts
from emcl_plugin.evaluation.metrics import evaluate
from emcl_plugin.ncl import NCL
from emcl_plugin.pipeline.job import Job
from emcl_plugin.pipeline.settings import Resources
from emcl_plugin.scores import Dense
from emcl_plugin.scores.tokens import Tokens

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is at hand")

DEMO = load_demo()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_tensors_stay_on_their_device(dtype):
    sides = tuple(torch.from_numpy(x.astype(dtype)) for x in (DEMO.text, DEMO.video))
    there = rerank(None, tuple(x.cuda() for x in sides))
    assert there.device.type == "cuda"
    assert there.dtype == sides[0].dtype
    here = rerank(None, sides)
    assert (there.cpu() - here).abs().max() < (2e-3 if dtype == "float16" else 1e-4)


def test_arrays_are_computed_there_and_come_back():
    sides = (DEMO.text.astype("f4"), DEMO.video.astype("f4"))
    found = rescore(None, sides)
    assert isinstance(found.scores, np.ndarray)
    assert found.biases.text.device.type == "cuda"
    np.testing.assert_allclose(found.scores, rerank(None, sides, device="cpu"), atol=1e-4)


@pytest.mark.parametrize(("products", "tolerance"), [("scores", 1e-4), ("bfloat16", 0.012)])
def test_the_fused_kernel_does_what_blocks_do(products, tolerance):
    sides = tuple(torch.from_numpy(x.astype("f4")).cuda() for x in (DEMO.text, DEMO.video))
    found, wanted = (
        rescore(None, sides, ncl=NCL(solver=solver, products=products))
        for solver in ("fused", "blocks")
    )
    assert found.biases.solver == "fused"
    assert (found.scores - wanted.scores).abs().max() < tolerance


def test_metrics_are_those_of_the_cpu():
    scores = torch.from_numpy(rerank(None, (DEMO.text, DEMO.video), device="cpu"))
    there = evaluate(Dense(scores, device="cuda")).to_dict()
    assert there == evaluate(Dense(scores)).to_dict()


def test_candidates_are_those_of_the_cpu():
    sides = tuple(torch.from_numpy(x.astype("f4")) for x in (DEMO.text, DEMO.video))
    there = rerank_top(tuple(x.cuda() for x in sides), 5)
    here = rerank_top(sides, 5)
    assert there.videos.device.type == "cuda"
    assert (there.videos.cpu() == here.videos).double().mean() > 0.999
    assert (there.scores.cpu() - here.scores).abs().max() < 1e-4


def test_a_full_gpu_gets_smaller_blocks_and_no_stored_kernel():
    """A fifth of a gigabyte is left for 400 MB of scores and as much of a kernel."""
    torch.manual_seed(0)
    sides = tuple(torch.randn(10_000, 64).cuda() for _ in range(2))
    wanted = rescore(None, sides, memory=1 << 28)
    total = torch.cuda.get_device_properties(0).total_memory
    used = torch.cuda.memory_allocated() + (200 << 20)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(used / total)
    try:
        found = Job(None, sides, resources=Resources(memory=1 << 32)).correct()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert found.biases.solver == "blocks"
    assert (found.biases.video - wanted.biases.video).abs().max() < 1e-4


def test_a_run_goes_on_from_its_checkpoint(tmp_path):
    def stop(stage, done, _):
        if stage == "sinkhorn" and done == 3:
            raise KeyboardInterrupt

    sides = tuple(torch.from_numpy(x.astype("f4")).cuda() for x in (DEMO.text, DEMO.video))
    file = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        rerank(None, sides, resume=file, progress=stop)
    assert (rerank(None, sides, resume=file) - rerank(None, sides)).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["experts", "tokens"])
def test_mixtures_and_tokens_are_those_of_the_cpu(kind):
    torch.manual_seed(0)
    if kind == "experts":
        sides = [{"rgb": torch.randn(50, 8), "audio": torch.randn(50, 5)} for _ in range(2)]
        weights = [torch.rand(50, 2) for _ in range(2)]
        here = Experts(*sides, *weights)
        moved = [{name: x.cuda() for name, x in side.items()} for side in sides]
        there = Experts(*moved, *(x.cuda() for x in weights))
    else:
        parts = torch.randn(50, 6, 8), torch.randn(50, 4, 8), torch.ones(50, 6), torch.ones(50, 4)
        here, there = Tokens(*parts), Tokens(*(x.cuda() for x in parts))
    found = rerank(there)
    assert found.device.type == "cuda"
    assert (found.cpu() - rerank(here)).abs().max() < 1e-4
