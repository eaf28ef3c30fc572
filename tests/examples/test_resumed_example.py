"""The example without Trainer resumes from the training state that Accelerate saved."""

from pathlib import Path

import torch
from families import TINY_VIT
from references_of_training import make_colours, weights
from transformers import ViTImageProcessor

from hf_vit_suite import SuiteViTConfig, SuiteViTForImageClassification

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "image_classification_no_trainer.py"


def test_example_without_trainer_resumes_exactly(tmp_path: Path, run_python):
    data, before = make_colours(tmp_path / "data", images_a_class=10), tmp_path / "before"
    SuiteViTForImageClassification(SuiteViTConfig(**TINY_VIT | {"drop_path_rate": 0.2})).save_pretrained(before)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(before)

    def train(output: str, *options: str) -> dict[str, torch.Tensor]:
        run_python(str(EXAMPLE), str(before), str(data), str(tmp_path / output), "--epochs", "2",
                   "--learning_rate", "0.003", "--gradient_accumulation_steps", "2", *options,
                   ACCELERATE_USE_CPU="true")  # fmt: skip
        return weights(tmp_path / output)

    whole = train("whole", "--save_epochs")
    resumed = train("resumed", "--resume_from_checkpoint", str(tmp_path / "whole" / "epoch_1"))
    state = weights(tmp_path / "whole" / "epoch_1")
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, msg=name)
        assert not torch.equal(state[name], weight), name
