"""Exported and traced models give what the model gives, for other numbers of images and texts too."""

from pathlib import Path

import onnxruntime
import pytest
import torch
from every_family import assert_close, build, every_class, floats, one_a_family
from families import TINY_VIT, Family
from torch import Tensor, nn
from torch.export import Dim
from transformers import PreTrainedModel

from hf_vit_suite import SuiteViTConfig, SuiteViTModel


class AsTuple(nn.Module):
    """A model as exporters take it: tensors in, a flat tuple of tensors out."""

    def __init__(self, model: PreTrainedModel, inputs: dict):
        super().__init__()
        self.model = model
        self.names = [name for name, value in inputs.items() if isinstance(value, Tensor)]
        self.options = {name: value for name, value in inputs.items() if name not in self.names}

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(floats(self.model(**dict(zip(self.names, tensors, strict=True)), **self.options)))


def exportable(family: Family, auto_class: str) -> tuple[AsTuple, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """A model, inputs to export it with, and those of one more image or text."""
    model = build(family, auto_class)
    inputs = family.inputs(model)
    module = AsTuple(model, inputs).eval()
    tensors = tuple(inputs[name] for name in module.names)
    return module, tensors, tuple(torch.cat((tensor, tensor[:1])) for tensor in tensors)


# torch deprecates its traces, and they warn of each size that they take as constant, such as the patch grid's.
pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::FutureWarning")
BATCH = {0: Dim.DYNAMIC}


@every_class
@torch.no_grad()
def test_exported_and_traced_model_takes_another_batch_size(family: Family, auto_class: str):
    module, tensors, more = exportable(family, auto_class)
    expected = module(*more)
    program = torch.export.export(module, tensors, dynamic_shapes=((BATCH,) * len(tensors),))
    assert_close(program.module()(*more), expected)
    assert_close(torch.jit.trace(module, tensors, check_trace=False)(*more), expected)


@one_a_family
@pytest.mark.parametrize("dynamo", [True, False], ids=["by torch.export", "by tracing"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@torch.no_grad()
def test_onnx_model_takes_another_batch_size(family: Family, dynamo: bool, tmp_path: Path):
    module, tensors, more = exportable(family, family.auto_classes[0])
    if dynamo:
        options = {"dynamic_shapes": ((BATCH,) * len(tensors),)}
    else:
        options = {"input_names": module.names, "dynamic_axes": {name: {0: "batch"} for name in module.names}}
    file = str(tmp_path / "model.onnx")
    torch.onnx.export(module, tensors, file, dynamo=dynamo, verbose=False, **options)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found = session.run(
        None, {put.name: tensor.numpy() for put, tensor in zip(session.get_inputs(), more, strict=True)}
    )
    assert_close([torch.from_numpy(array) for array in found], module(*more), tolerance=1e-4)


@torch.no_grad()
def test_positions_are_resized_in_a_trace_and_for_dynamic_sizes():
    """As when DINOv2, whose table is for 518 pixels, is deployed for 224."""
    config = SuiteViTConfig(**{**TINY_VIT, "image_size": 64})
    model = SuiteViTModel(config).eval()
    model.config.return_dict = False
    taken, other = torch.randn(2, 3, 32, 48), torch.randn(3, 3, 40, 64)
    sizes = {0: Dim.DYNAMIC, 2: 8 * Dim("rows", min=1, max=64), 3: 8 * Dim("columns", min=1, max=64)}
    program = torch.export.export(model, (taken,), dynamic_shapes={"pixel_values": sizes})
    assert_close(program.module()(other), model(other))
    offset = SuiteViTModel(SuiteViTConfig(**config.vit_fields() | {"position_interpolation_offset": 0.1})).eval()
    offset.config.return_dict = False
    assert_close(torch.jit.trace(offset, (taken,), check_trace=False)(taken[:1]), offset(taken[:1]))
