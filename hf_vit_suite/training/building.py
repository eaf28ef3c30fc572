"""The model and image processor that fine-tuning starts from."""

import logging

from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    PretrainedConfig,
    PreTrainedModel,
    ViTImageProcessor,
)
from transformers.image_utils import PILImageResampling

from ..argument_types import parse_overrides
from ..models.presets import preset_config
from ..opening import is_pretrained_encoder, open_pretrained
from .arguments import ModelArguments
from .optimization import BLOCK

logger = logging.getLogger(__name__)


def build_model(arguments: ModelArguments, label_names: list[str]) -> tuple[PreTrainedModel, ViTImageProcessor]:
    """A classifier for these labels, from a preset or a checkpoint, and its image processor.

    Raises:
        ValueError: If neither or both of preset and model are given, or the arguments don't fit together.
    """
    if (arguments.preset is None) == (arguments.model is None):
        raise ValueError("give one of --preset (train from scratch) and --model (start from a checkpoint)")
    if arguments.linear_probe and arguments.lora:
        raise ValueError("give one of --linear_probe and --lora, or neither to train every weight")
    if arguments.model is not None:
        if arguments.config_overrides is not None:
            raise ValueError("--config_overrides changes a preset: a checkpoint's architecture is what it is")
        model, processor = from_checkpoint(arguments, label_names)
    else:
        model, processor = from_preset(arguments, label_names)
    if arguments.linear_probe:
        freeze_all_but_heads(model)
    if arguments.lora:
        model = add_adapters(model, arguments.lora_rank)
    return model, processor


def label_fields(label_names: list[str]) -> dict:
    """Config fields that name the labels, of which each image has one."""
    return {
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: number for number, name in enumerate(label_names)},
        # Else probabilities, as mixup gives them, would count as several labels, and a single label as a value.
        "problem_type": "single_label_classification",
    }


def from_preset(arguments: ModelArguments, label_names: list[str]) -> tuple[PreTrainedModel, ViTImageProcessor]:
    """A preset with random weights."""
    overrides = parse_overrides(arguments.config_overrides)
    for name in ("image_size", "drop_path_rate"):
        if getattr(arguments, name) is not None:
            overrides[name] = getattr(arguments, name)
    config = preset_config(arguments.preset, **overrides)
    if is_pretrained_encoder(config):
        raise ValueError(
            f"{arguments.preset} is pretrained before it is fine-tuned (hf-vit-suite pretrain): give the folder that "
            "this leaves by --model"
        )
    for name, value in label_fields(label_names).items():
        setattr(config, name, value)
    height, width = config.image_height_width
    processor = ViTImageProcessor(size={"height": height, "width": width}, resample=PILImageResampling.BICUBIC)
    return AutoModelForImageClassification.from_config(config), processor


def from_checkpoint(arguments: ModelArguments, label_names: list[str]) -> tuple[PreTrainedModel, ViTImageProcessor]:
    """A checkpoint, with a new head where its labels are others."""
    config = open_pretrained(AutoConfig, arguments.model)
    processor = open_pretrained(AutoImageProcessor, arguments.model)
    if arguments.image_size is not None:
        set_input_size(processor, arguments.image_size)
    if is_pretrained_encoder(config):
        return from_pretrained_encoder(arguments, config, label_names), processor
    keeps_head = list((config.id2label or {}).values()) == label_names
    if arguments.drop_path_rate is not None:
        config.drop_path_rate = arguments.drop_path_rate
    old_labels = len(config.id2label or {})
    for name, value in label_fields(label_names).items():
        setattr(config, name, value)
    model = open_pretrained(
        AutoModelForImageClassification, arguments.model, config=config, ignore_mismatched_sizes=not keeps_head
    )
    if not keeps_head:
        start_new_heads(model, config)
        logger.warning(
            "%s has a head for %d labels and the data %d others: a new head is made",
            arguments.model,
            old_labels,
            len(label_names),
        )
    return model, processor


def from_pretrained_encoder(
    arguments: ModelArguments, config: PretrainedConfig, label_names: list[str]
) -> PreTrainedModel:
    """A classifier on an encoder that was pretrained without labels.

    Where it pools the mean of the patches, the norm starts anew with the head, as a mean is not what it was trained
    on (MAE, arXiv 2111.06377, appendix A.1).
    """
    fields = {} if arguments.drop_path_rate is None else {"drop_path_rate": arguments.drop_path_rate}
    pooling = config.fine_tuning_pooling
    classifier_config = config.encoder_config(pooling=pooling, **label_fields(label_names), **fields)
    model = AutoModelForImageClassification.from_config(classifier_config)
    take_over_encoder(model.base_model, open_pretrained(AutoModel, arguments.model), with_norm=pooling == "cls")
    return model


def take_over_encoder(model: nn.Module, encoder: PreTrainedModel, with_norm: bool) -> None:
    """Copies a pretrained encoder's weights into a plain vision transformer of the same configuration.

    Args:
        model: Takes the weights.
        encoder: Any encoder of the suite, or a model with such an image tower.
        with_norm: Whether the last norm is taken over too.
    """
    encoder = getattr(encoder, "vision_model", encoder)
    parts = ["embeddings", "encoder"]
    if encoder.config.use_pre_norm:
        parts.append("pre_norm")
    if with_norm:
        parts.append("norm")
    for part in parts:
        getattr(model, part).load_state_dict(getattr(encoder, part).state_dict())


def heads(model: nn.Module) -> dict[str, nn.Module]:
    """The classification heads by name: `classifier`, and what distilled models have beside it."""
    return {name: module for name, module in model.named_children() if name.endswith("classifier") and module}


def start_new_heads(model: PreTrainedModel, config: PretrainedConfig) -> None:
    """Gives every head fresh random weights."""
    for head in heads(model).values():
        for layer in head.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=getattr(config, "initializer_range", 0.02))
                nn.init.zeros_(layer.bias)


def set_input_size(processor: ViTImageProcessor, image_size: int) -> None:
    """Makes a processor yield squares of `image_size` pixels; a crop keeps its share of the resized image."""
    if getattr(processor, "do_center_crop", None):
        edge = processor.size.get("shortest_edge") or processor.size["height"]
        resized = round(edge * image_size / processor.crop_size["height"])
        processor.size = {"shortest_edge": resized}
        processor.crop_size = {"height": image_size, "width": image_size}
    else:
        processor.size = {"height": image_size, "width": image_size}


def freeze_all_but_heads(model: PreTrainedModel) -> None:
    """Leaves only the classification heads to train."""
    model.requires_grad_(False)
    for head in heads(model).values():
        head.requires_grad_(True)


def add_adapters(model: PreTrainedModel, rank: int) -> nn.Module:
    """LoRA (Hu et al. 2021, arXiv 2106.09685) on every linear layer of the blocks; the heads train in full.

    Raises:
        ValueError: If peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ValueError("--lora needs the package peft: pip install 'hf-vit-suite[lora]'") from error
    targets = [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and BLOCK.search(f"{name}.")
    ]
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, modules_to_save=list(heads(model)))
    return get_peft_model(model, lora)
