"""The moving average of the weights."""

import pytest
import torch
from references_of_training import tiny_classifier
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_vit_suite.training.ema import WeightAverage


def arguments(folder) -> TrainingArguments:
    """Trainer's arguments, as a callback gets them."""
    return TrainingArguments(output_dir=str(folder), report_to="none", use_cpu=True)


def trained(folder, decay: float, steps: int) -> tuple[WeightAverage, torch.nn.Module, list[torch.Tensor]]:
    """An average after some steps, the model, and the classifier's bias after each step, the first before any."""
    average, model, state, history = WeightAverage(decay), tiny_classifier(), TrainerState(), []
    average.on_train_begin(arguments(folder), state, TrainerControl(), model=model)
    history.append(model.classifier.bias.detach().double().clone())
    for step in range(1, steps + 1):
        with torch.no_grad():
            model.classifier.bias.normal_()
        state.global_step = step
        average.on_step_end(arguments(folder), state, TrainerControl(), model=model)
        history.append(model.classifier.bias.detach().double().clone())
    return average, model, history


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_average_equals_a_plain_derivation(decay: float, tmp_path):
    average, _, history = trained(tmp_path, decay, 20)
    expected = history[0]
    for step, bias in enumerate(history[1:], start=1):
        held = min(decay, (1 + step) / (10 + step))
        expected = held * expected + (1 - held) * bias
    torch.testing.assert_close(average.average["classifier.bias"].double(), expected, rtol=1e-5, atol=1e-6)


def test_evaluation_uses_the_average_and_gives_the_weights_back(tmp_path):
    average, model, history = trained(tmp_path, 0.9, 5)
    averaged = average.average["classifier.bias"].clone()
    with average.in_use(model):
        assert torch.equal(model.classifier.bias, averaged)
    assert torch.equal(model.classifier.bias.double(), history[-1])
    assert torch.equal(average.average["classifier.bias"], averaged)


def test_checkpoint_keeps_the_average_for_resuming(tmp_path):
    average, _, _ = trained(tmp_path, 0.9, 5)
    state = TrainerState(global_step=5)
    average.on_save(arguments(tmp_path), state, TrainerControl())
    resumed = WeightAverage(0.9, resume_from=str(tmp_path / "checkpoint-5"))
    resumed.on_train_begin(arguments(tmp_path), state, TrainerControl(), model=tiny_classifier())
    assert resumed.average.keys() == average.average.keys()
    assert all(torch.equal(resumed.average[name], tensor) for name, tensor in average.average.items())


def test_finished_model_has_the_average(tmp_path):
    average, model, _ = trained(tmp_path, 0.9, 5)
    averaged = average.average["classifier.bias"].clone()
    average.on_train_end(arguments(tmp_path), TrainerState(), TrainerControl(), model=model)
    assert torch.equal(model.classifier.bias, averaged)


def test_decay_out_of_range_and_checkpoint_without_average_are_refused(tmp_path):
    with pytest.raises(ValueError, match="ema_decay must be above 0 and below 1, got 1"):
        WeightAverage(1)
    with pytest.raises(ValueError, match=r"has no ema\.safetensors"):
        WeightAverage(0.9, resume_from=str(tmp_path)).on_train_begin(
            arguments(tmp_path), TrainerState(), TrainerControl(), model=tiny_classifier()
        )
