"""The contrastive losses over several processes equal one process with every pair."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from references import relative_difference

from hf_vit_suite.models.contrastive import LOSSES, in_batch_accuracy, similarities

TWO_PROCESSES = """
import os, sys, torch
import torch.distributed as dist
import torch.nn.functional as F
from hf_vit_suite.models.contrastive import LOSSES, gathered_similarities, in_batch_accuracy
dist.init_process_group("gloo")
rank, results = dist.get_rank(), {}
for loss_type in LOSSES:
    for local in (True, False):
        data = torch.load("pairs.pt")
        leaves = {name: data[name].requires_grad_() for name in ("scale", "bias")}
        leaves |= {name: data[name].chunk(2)[rank].clone().requires_grad_() for name in ("images", "texts")}
        embeds = [F.normalize(leaves[name], dim=-1) for name in ("images", "texts")]
        pairs = gathered_similarities(*embeds, leaves["scale"], leaves["bias"], local=local)
        loss = LOSSES[loss_type](pairs)
        loss.backward()
        # What DistributedDataParallel does: means over the processes; for the features' own gradient that is a half.
        shared = torch.stack([loss.detach(), in_batch_accuracy(pairs), leaves["scale"].grad, leaves["bias"].grad])
        dist.all_reduce(shared)
        grads = []
        for name in ("images", "texts"):
            parts = [torch.empty_like(leaves[name]) for _ in range(2)]
            dist.all_gather(parts, leaves[name].grad / 2)
            grads.append(torch.cat(parts))
        results[loss_type, local] = (shared / 2, *grads)
if rank == 0:
    torch.save(results, "results.pt")
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    """Loss, accuracy and gradients that two processes find, and the pairs they share."""
    folder = tmp_path_factory.mktemp("processes")
    torch.manual_seed(0)
    pairs = {"images": torch.randn(12, 8), "texts": torch.randn(12, 8)}
    pairs |= {"scale": torch.tensor(5.0), "bias": torch.tensor(-1.0)}
    torch.save(pairs, folder / "pairs.pt")
    (folder / "script.py").write_text(TWO_PROCESSES)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "script.py"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    subprocess.run([sys.executable, *command], cwd=folder, check=True, capture_output=True, env=environment)
    return {"pairs": pairs, "found": torch.load(folder / "results.pt")}


@pytest.mark.parametrize("local", [True, False], ids=["local", "global"])
@pytest.mark.parametrize("loss_type", ["softmax", "sigmoid"])
def test_two_processes_equal_one_in_loss_and_gradients(results, loss_type: str, local: bool):
    leaves = {name: value.clone().requires_grad_() for name, value in results["pairs"].items()}
    embeds = [torch.nn.functional.normalize(leaves[name], dim=-1) for name in ("images", "texts")]
    pairs = similarities(*embeds, leaves["scale"], leaves["bias"])
    loss = LOSSES[loss_type](pairs)
    loss.backward()
    shared, images, texts = results["found"][loss_type, local]
    expected = torch.stack([loss.detach(), in_batch_accuracy(pairs), leaves["scale"].grad, leaves["bias"].grad])
    assert (shared - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert relative_difference(images, leaves["images"].grad) <= 1e-5
    assert relative_difference(texts, leaves["texts"].grad) <= 1e-5
