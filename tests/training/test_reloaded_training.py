"""Training that continues from a saved folder leaves alone what a new model leaves alone."""

from pathlib import Path

import pytest
import torch
from families import TINY_DINO, TINY_MAE
from references_of_training import weights
from transformers import ViTImageProcessor

from hf_vit_suite import SuiteDINOConfig, SuiteDINOForPreTraining, SuiteMAEConfig, SuiteMAEForPreTraining

MODELS = {
    "dino": (SuiteDINOForPreTraining, lambda: SuiteDINOConfig(**TINY_DINO, position_embedding_type="sincos")),
    "mae": (SuiteMAEForPreTraining, lambda: SuiteMAEConfig(**TINY_MAE)),
}
FIXED = ("position_embeddings", "prototypes.gain")


@pytest.fixture(params=MODELS)
def saved(request, tmp_path: Path) -> tuple[str, Path]:
    """The name of a pretraining method and the folder of a tiny model of it."""
    model_class, config = MODELS[request.param]
    model_class(config()).save_pretrained(tmp_path / "first")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "first")
    return request.param, tmp_path / "first"


def test_the_command_trains_what_a_new_model_trains(
    saved: tuple[str, Path], run_command, pictures: Path, tmp_path: Path
):
    method, folder = saved
    extra = ("--teacher_momentum", "1", "--freeze_prototypes_epochs", "0") if method == "dino" else ()
    run_command("pretrain", method, "--model", str(folder), "--dataset", str(pictures), "--output_dir",
                str(tmp_path / "second"), "--max_steps", "3", "--learning_rate", "0.01", "--warmup_steps", "0",
                "--per_device_train_batch_size", "8", "--report_to", "none", *extra)  # fmt: skip
    before, after = weights(folder), weights(tmp_path / "second")
    # With a momentum of 1 the teacher stays whole.
    for name, weight in before.items():
        is_fixed = name.endswith(FIXED) or (method == "dino" and name.startswith(("vit.", "teacher_head.")))
        assert torch.equal(after[name], weight) == is_fixed, name


PLAIN_TRAINER = """
import sys
import torch
import hf_vit_suite
from transformers import AutoModelForPreTraining, Trainer, TrainingArguments

folder, method = sys.argv[1:]
crops = (2, 3, 32, 32) if method == "dino" else (3, 32, 32)
rows = [{"pixel_values": torch.randn(crops)} for _ in range(24)]
model = AutoModelForPreTraining.from_pretrained(folder)
arguments = TrainingArguments(
    output_dir="trained", max_steps=3, per_device_train_batch_size=4, learning_rate=0.01, report_to="none",
    save_strategy="no", use_cpu=True, ddp_backend="gloo", disable_tqdm=True,
)
Trainer(model, arguments, train_dataset=rows).train()
if arguments.process_index == 0:
    model.save_pretrained("second")
# A process that ends while the other one still saves can abort in gloo's threads.
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def test_two_processes_of_a_plain_trainer_train_a_reloaded_model(saved: tuple[str, Path], run_python, tmp_path: Path):
    """A frozen weight that asks for a gradient and gets none stops DistributedDataParallel at the second step."""
    method, folder = saved
    (tmp_path / "train.py").write_text(PLAIN_TRAINER)
    run_python("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "train.py", str(folder), method,
               OMP_NUM_THREADS="1")  # fmt: skip
    before, after = weights(folder), weights(tmp_path / "second")
    for name, weight in before.items():
        if name.endswith(FIXED):
            assert torch.equal(after[name], weight), name
    assert not torch.equal(after[f"{'student' if method == 'dino' else 'vit'}.norm.bias"], torch.zeros(32))
