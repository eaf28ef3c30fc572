"""Weights that lie elsewhere or are wrapped: offloaded, on two devices, under adapters, hooks or pruning."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from accelerate.utils import send_to_device
from every_family import CASES, assert_close, build, every_class, floats, one_a_form, scalar
from families import Family
from peft import LoraConfig, get_peft_model
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn.utils import prune
from transformers import PreTrainedModel

from hf_vit_suite.models.embedding import PatchProjection


def patch_projections(model: PreTrainedModel) -> list[PatchProjection]:
    """The patch projection of each encoder."""
    return [module for module in model.modules() if isinstance(module, PatchProjection)]


def is_of_images(model: PreTrainedModel) -> bool:
    """Whether there is an image encoder."""
    return bool(patch_projections(model))


# DINO's loss reads the prototypes by parts, outside of their module's call, which is where weights come and go.
@pytest.mark.parametrize(
    ("family", "auto_class"), [case for case in CASES if case.id != "dino-AutoModelForPreTraining"]
)
@torch.no_grad()
def test_offloaded_weights_give_the_same_outputs(family: Family, auto_class: str, tmp_path: Path):
    model = build(family, auto_class)
    inputs = family.inputs(model)
    expected = model(**inputs)
    assert_close(cpu_offload(copy.deepcopy(model), torch.device("cpu"))(**inputs), expected)
    on_disk = disk_offload(model, str(tmp_path), torch.device("cpu"))
    assert {weight.device.type for weight in on_disk.parameters()} == {"meta"}
    assert_close(on_disk(**inputs), expected)


def units(module: nn.Module, kept_whole: tuple[str, ...]) -> Iterator[nn.Module]:
    """The parts that `device_map="auto"` puts on one device each."""
    if type(module).__name__ in kept_whole or not list(module.children()):
        yield module
    else:
        for child in module.children():
            yield from units(child, kept_whole)


def move(module: nn.Module, device: str, recurse: bool = True) -> None:
    """Moves weights, which under fake tensors `Module.to` does not."""
    for part in module.modules() if recurse else [module]:
        for name, weight in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(weight.data.to(device), weight.requires_grad))
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, buffer.to(device))


@every_class
def test_parts_on_two_devices_meet(family: Family, auto_class: str):
    """With tensors that have a device and no values, so that it needs none; mixing devices is an error there too."""
    model = build(family, auto_class)
    inputs = family.inputs(model)
    if hasattr(model, "classifier"):
        inputs["labels"] = torch.tensor([0, 1])
    with FakeTensorMode(allow_non_fake_inputs=True):
        for part in model.modules():
            move(part, "cuda:0", recurse=False)
        for number, part in enumerate(units(model, tuple(model._no_split_modules))):
            device = f"cuda:{number % 2}"
            move(part, device)
            add_hook_to_module(part, AlignDevicesHook(execution_device=device))
        assert {str(weight.device) for weight in model.parameters()} == {"cuda:0", "cuda:1"}
        outputs = model(**send_to_device(inputs, "cuda:0"))
    assert floats(outputs)


@every_class
def test_patch_projection_runs_its_hooks(family: Family, auto_class: str):
    model = build(family, auto_class)
    shapes = []
    for projection in patch_projections(model):
        projection.register_forward_hook(lambda module, arguments, output: shapes.append(output.shape))
    model(**family.inputs(model))
    assert len(shapes) >= len(patch_projections(model))
    assert all(len(shape) == 4 for shape in shapes)


@one_a_form
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft reads it
def test_low_rank_adapter_of_the_patch_projection_learns_and_merges(family: Family):
    model = build(family, family.auto_classes[0])
    if not is_of_images(model):
        pytest.skip("no image encoder")
    inputs = family.inputs(model)
    expected = model(**inputs)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["projection"]))
    assert_close(adapted(**inputs), expected)
    optimizer = torch.optim.SGD([weight for weight in adapted.parameters() if weight.requires_grad], lr=0.1)
    for _ in range(2):  # an adapter's first matrix learns once the second is not zero
        optimizer.zero_grad()
        scalar(adapted(**inputs)).backward()
        optimizer.step()
    for name, weight in adapted.named_parameters():
        if "lora" in name:
            assert weight.grad.abs().sum() > 0, name
    learned = adapted.eval()(**inputs)
    with pytest.raises(AssertionError):
        assert_close(learned, expected, tolerance=1e-3)
    assert_close(adapted.merge_and_unload()(**inputs), learned, tolerance=1e-4)


@one_a_form
def test_pruned_patch_projection_learns(family: Family):
    model = build(family, family.auto_classes[0])
    for projection in patch_projections(model):
        prune.l1_unstructured(projection, "weight", amount=0.5)
    inputs = family.inputs(model)
    for projection in patch_projections(model):
        scalar(model(**inputs)).backward()
        assert projection.weight_orig.grad.abs().sum() > 0
        assert (projection.weight_orig.grad[projection.weight_mask == 0] == 0).all()
