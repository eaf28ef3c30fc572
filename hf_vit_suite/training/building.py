"""Models and image processors to train: from a preset, from a checkpoint, on a pretrained encoder."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoProcessor,
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPProcessor,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ViTImageProcessor,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

from ..config_overrides import height_and_width, parse_overrides
from ..data import CaptionedImages, input_size, train_tokenizer
from ..data.labels import SINGLE
from ..inference.opening import is_pretrained_encoder, open_pretrained
from ..models.configuration_clip import SuiteCLIPConfig
from ..models.configuration_trunk import TrunkConfig
from ..models.configuration_vit import SuiteViTConfig
from ..models.embedding import round_to_multiple
from ..models.presets import list_presets, preset_config
from .arguments import ImageSizeArguments, PretrainingModelArguments
from .trainer import BLOCK

logger = logging.getLogger(__name__)

CLIP_PRESET = "clip_vit_b_32"
PAPER_TOKENIZER = "openai/clip-vit-base-patch32"
CLIP_FROM_SCRATCH = ("preset", "config_overrides", "image_tower", "tokenizer", "train_tokenizer")


@dataclass
class ClassifierArguments(ImageSizeArguments):
    """Model options of fine-tuning."""

    preset: str | None = field(
        default=None, metadata={"help": "architecture to train from scratch; `hf-vit-suite models` lists them"}
    )
    model: str | None = field(
        default=None, metadata={"help": "checkpoint to start from: folder or Hub name, ours or transformers'"}
    )
    config_overrides: str | None = field(
        default=None, metadata={"help": "changes to the preset, e.g. num_hidden_layers=6,patch_size=4"}
    )
    linear_probe: bool = field(default=False, metadata={"help": "train the classification head alone"})
    lora: bool = field(default=False, metadata={"help": "train LoRA adapters and the head, then merge them"})
    lora_rank: int = field(default=16, metadata={"help": "rank of the LoRA adapters"})
    drop_path_rate: float | None = field(
        default=None, metadata={"help": "stochastic depth of the last block; 0.1 in DeiT; default the model's own"}
    )


def build_classifier(
    arguments: ClassifierArguments, label_names: list[str], problem_type: str = SINGLE
) -> tuple[PreTrainedModel, ViTImageProcessor]:
    """A classifier for these labels, from a preset or a checkpoint, and its image processor.

    Args:
        arguments: Model options.
        label_names: Names of labels, or of values to regress, by number.
        problem_type: As in transformers' configs.

    Raises:
        ValueError: If neither or both of preset and model are given, or the arguments don't fit together.
    """
    if (arguments.preset is None) == (arguments.model is None):
        raise ValueError("give one of --preset (train from scratch) and --model (start from a checkpoint)")
    if arguments.linear_probe and arguments.lora:
        raise ValueError("give one of --linear_probe and --lora, or neither to train every weight")
    if arguments.model is not None:
        if arguments.config_overrides is not None:
            raise ValueError("--config_overrides changes a preset, not a checkpoint: leave it out or give --preset")
        model, processor = from_checkpoint(arguments, label_names, problem_type)
    else:
        model, processor = from_preset(arguments, label_names, problem_type)
    if arguments.linear_probe:
        freeze_all_but_heads(model)
    if arguments.lora:
        model = add_adapters(model, arguments.lora_rank)
    return model, processor


def classification_fields(label_names: list[str], problem_type: str) -> dict:
    """Config fields of these labels."""
    return {
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: number for number, name in enumerate(label_names)},
        # Without it, probabilities as mixup makes them would count as independent labels, one label as a regression.
        "problem_type": problem_type,
    }


def from_preset(
    arguments: ClassifierArguments, label_names: list[str], problem_type: str
) -> tuple[PreTrainedModel, ViTImageProcessor]:
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
    for name, value in classification_fields(label_names, problem_type).items():
        setattr(config, name, value)
    height, width = config.image_height_width
    processor = ViTImageProcessor(size={"height": height, "width": width}, resample=PILImageResampling.BICUBIC)
    return AutoModelForImageClassification.from_config(config), processor


def from_checkpoint(
    arguments: ClassifierArguments, label_names: list[str], problem_type: str
) -> tuple[PreTrainedModel, ViTImageProcessor]:
    """A checkpoint, with a new head if its labels differ."""
    config = open_pretrained(AutoConfig, arguments.model)
    processor = open_pretrained(AutoImageProcessor, arguments.model)
    if arguments.image_size is not None:
        set_input_size(processor, arguments.image_size, config)
    if is_pretrained_encoder(config):
        fields = classification_fields(label_names, problem_type)
        return from_pretrained_encoder(arguments, config, fields), processor
    keeps_head = list((config.id2label or {}).values()) == label_names
    if arguments.drop_path_rate is not None:
        config.drop_path_rate = arguments.drop_path_rate
    old_labels = len(config.id2label or {})
    vars(config).pop("label_thresholds", None)  # of the labels before
    for name, value in classification_fields(label_names, problem_type).items():
        setattr(config, name, value)
    model = open_pretrained(
        AutoModelForImageClassification, arguments.model, config=config, ignore_mismatched_sizes=not keeps_head
    )
    if not keeps_head:
        start_new_heads(model, config)
        logger.warning(
            "%s has a head for %d labels and the data has %d other labels: a new head is made",
            arguments.model,
            old_labels,
            len(label_names),
        )
    return model, processor


def from_pretrained_encoder(
    arguments: ClassifierArguments, config: PretrainedConfig, label_fields: dict
) -> PreTrainedModel:
    """A classifier on a pretrained encoder.

    With mean pooling the norm starts anew with the head, as pretraining did not train it on means (MAE,
    arXiv 2111.06377, appendix A.1).
    """
    fields = {} if arguments.drop_path_rate is None else {"drop_path_rate": arguments.drop_path_rate}
    pooling = config.fine_tuning_pooling
    classifier_config = config.encoder_config(pooling=pooling, **label_fields, **fields)
    model = AutoModelForImageClassification.from_config(classifier_config)
    take_over_encoder(model.base_model, open_pretrained(AutoModel, arguments.model), with_norm=pooling == "cls")
    return model


def build_pretraining_model(
    arguments: PretrainingModelArguments, config_class: type[TrunkConfig], default_preset: str, from_scratch: dict
) -> tuple[PreTrainedModel, ViTImageProcessor]:
    """The model to pretrain, from a preset or a checkpoint, and its image processor.

    Args:
        arguments: Model options of a recipe; the fields that it adds change the config.
        config_class: Config class of the family.
        default_preset: Preset of the family.
        from_scratch: Defaults of a new model's config fields.

    Raises:
        ValueError: If the arguments don't fit together, or the preset or the checkpoint is of another family.
    """
    shared = PretrainingModelArguments.__dataclass_fields__
    changes = {name: value for name, value in vars(arguments).items() if name not in shared and value is not None}
    if arguments.model is not None:
        if arguments.preset is not None or arguments.config_overrides is not None:
            raise ValueError("--preset and --config_overrides are for training from scratch: --model has its own")
        return pretraining_checkpoint(arguments, config_class, changes)
    fields = {**from_scratch, **parse_overrides(arguments.config_overrides), **changes}
    if arguments.image_size is not None:
        fields["image_size"] = arguments.image_size
    preset = arguments.preset or default_preset
    if type(preset_config(preset)) is not config_class:
        fitting = [name for name in list_presets() if type(preset_config(name)) is config_class]
        raise ValueError(f"--preset {preset} is no {config_class.model_type}: choose {', '.join(fitting)}")
    config = preset_config(preset, **fields)
    height, width = config.image_height_width
    processor = ViTImageProcessor(
        size={"height": height, "width": width},
        resample=PILImageResampling.BICUBIC,
        image_mean=IMAGENET_DEFAULT_MEAN,
        image_std=IMAGENET_DEFAULT_STD,
    )
    return AutoModelForPreTraining.from_config(config), processor


def pretraining_checkpoint(
    arguments: PretrainingModelArguments, config_class: type[TrunkConfig], changes: dict
) -> tuple[PreTrainedModel, ViTImageProcessor]:
    """A checkpoint to continue from, with changed config fields."""
    config = open_pretrained(AutoConfig, arguments.model)
    if type(config) is not config_class:
        raise ValueError(f"--model {arguments.model} is no {config_class.model_type} but a {config.model_type}")
    config = config_class.from_dict(config.to_dict() | changes)
    processor = open_pretrained(AutoImageProcessor, arguments.model)
    if arguments.image_size is not None:
        set_input_size(processor, arguments.image_size, config)
    return open_pretrained(AutoModelForPreTraining, arguments.model, config=config), processor


def take_over_encoder(model: nn.Module, encoder: PreTrainedModel, with_norm: bool) -> None:
    """Copies a pretrained encoder's weights into a plain vision transformer of the same configuration.

    Args:
        model: Receives the weights.
        encoder: Any encoder of the suite, or a model with such an image tower.
        with_norm: Whether to copy the last norm too.
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
    """The classification heads by name: `classifier`, and in distilled models `distillation_classifier`."""
    return {name: module for name, module in model.named_children() if name.endswith("classifier") and module}


def start_new_heads(model: PreTrainedModel, config: PretrainedConfig) -> None:
    """Gives every head fresh random weights."""
    for head in heads(model).values():
        for layer in head.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=getattr(config, "initializer_range", 0.02))
                nn.init.zeros_(layer.bias)


def set_input_size(processor: ViTImageProcessor, image_size: int | list[int], config: PretrainedConfig) -> None:
    """Makes a processor yield images of a size; a crop keeps its fraction of the resized image.

    Args:
        processor: Of the model.
        image_size: Side of a square, or (height, width), in pixels.
        config: Of the image model.

    Raises:
        ValueError: If a side is no multiple of the model's patch size.
    """
    height, width = height_and_width(image_size)
    patch_size = getattr(config, "patch_size", None)
    if isinstance(patch_size, int) and (height % patch_size or width % patch_size):
        raise ValueError(
            f"--image_size must be a multiple of patch_size {patch_size}, got {height} x {width} pixels: give "
            f"{round_to_multiple(height, patch_size)}x{round_to_multiple(width, patch_size)}"
        )
    size = {"height": height, "width": width}
    if getattr(processor, "do_center_crop", None):
        processor.size = size_before_crop(processor, height, width)
        processor.crop_size = size
    else:
        processor.size = size


def size_before_crop(processor: ViTImageProcessor, height: int, width: int) -> dict[str, int]:
    """The size to resize to before a crop of (height, width), which keeps the crop's fraction of the image.

    An oblong crop would exceed an image of which only the shorter side is set, so both sides are.
    """
    size, crop = processor.size, processor.crop_size
    edge, shortest = size.get("shortest_edge"), min(crop["height"], crop["width"])
    if edge and height == width:
        return {"shortest_edge": round(edge * height / shortest)}
    shares = {side: edge / shortest if edge else size[side] / crop[side] for side in ("height", "width")}
    return {"height": round(height * shares["height"]), "width": round(width * shares["width"])}


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


@dataclass
class CLIPModelArguments(ImageSizeArguments):
    """Model options of CLIP."""

    preset: str | None = field(
        default=None, metadata={"help": f"architecture to train from scratch; default {CLIP_PRESET}"}
    )
    model: str | None = field(
        default=None, metadata={"help": "CLIP folder or Hub name to continue from, in place of a preset"}
    )
    config_overrides: str | None = field(
        default=None,
        metadata={"help": "changes to the preset, e.g. vision_config.patch_size=8,text_config.num_hidden_layers=6"},
    )
    image_tower: str | None = field(
        default=None,
        metadata={"help": "folder of any vision transformer of the suite to start the image tower from"},
    )
    lock_image_tower: bool = field(
        default=False, metadata={"help": "freeze the image tower and train the rest (LiT, arXiv 2111.07991)"}
    )
    patch_dropout: float | None = field(
        default=None, metadata={"help": "fraction of the patches dropped in training; default the model's own, 0"}
    )
    loss_type: str | None = field(
        default=None, metadata={"help": "softmax (CLIP) or sigmoid (SigLIP); default the model's own, softmax"}
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": f"folder or Hub name of a CLIP tokenizer; default {PAPER_TOKENIZER}"}
    )
    train_tokenizer: bool = field(
        default=False, metadata={"help": "train a byte-level tokenizer on the captions in place of a given one"}
    )
    vocab_size: int = field(default=49408, metadata={"help": "largest vocabulary of a trained tokenizer"})


def build_towers(arguments: CLIPModelArguments, data: CaptionedImages) -> tuple[PreTrainedModel, CLIPProcessor]:
    """The two towers to train and their processor.

    Args:
        arguments: Model options.
        data: Captions that a new tokenizer is trained on.

    Raises:
        ValueError: If the arguments don't fit together, or name a model of another kind.
    """
    if arguments.model is None:
        model, processor = new_towers(arguments, data)
    else:
        model, processor = trained_towers(arguments)
    if arguments.image_size is not None:
        set_input_size(processor.image_processor, arguments.image_size, model.config.vision_config)
    if arguments.lock_image_tower:
        model.vision_model.requires_grad_(False)
    return model, processor


def trained_towers(arguments: CLIPModelArguments) -> tuple[PreTrainedModel, CLIPProcessor]:
    """A trained CLIP to continue from."""
    if given := [f"--{name}" for name in CLIP_FROM_SCRATCH if getattr(arguments, name)]:
        raise ValueError(f"{', '.join(given)}: only for training from scratch, --model has its own")
    config = open_pretrained(AutoConfig, arguments.model)
    if type(config) is not SuiteCLIPConfig:
        raise ValueError(f"--model {arguments.model} is no suite_clip but a {config.model_type}")
    if arguments.patch_dropout is not None:
        config.vision_config.patch_dropout = arguments.patch_dropout
    if arguments.loss_type is not None:
        config.loss_type = arguments.loss_type
    config = SuiteCLIPConfig.from_dict(config.to_dict())  # checks the changes
    return open_pretrained(AutoModel, arguments.model, config=config), open_pretrained(AutoProcessor, arguments.model)


def new_towers(arguments: CLIPModelArguments, data: CaptionedImages) -> tuple[PreTrainedModel, CLIPProcessor]:
    """A preset's model, whose image tower may start from a trained encoder."""
    preset = arguments.preset or CLIP_PRESET
    if type(preset_config(preset)) is not SuiteCLIPConfig:
        fitting = [name for name in list_presets() if type(preset_config(name)) is SuiteCLIPConfig]
        raise ValueError(f"--preset {preset} is no suite_clip: choose {', '.join(fitting)}")
    fields = parse_overrides(arguments.config_overrides)
    text_fields = fields.setdefault("text_config", {})
    vision_fields = fields.setdefault("vision_config", {})
    tower = None
    if arguments.image_tower is not None:
        if vision_fields:
            raise ValueError(
                "--config_overrides of vision_config and --image_tower: a trained tower keeps its config, give one"
            )
        tower = plain_config(arguments.image_tower)
        vision_fields |= tower.vit_fields()
        if arguments.lock_image_tower:
            vision_fields["drop_path_rate"] = 0.0
    elif arguments.image_size is not None:
        vision_fields["image_size"] = arguments.image_size
    if arguments.patch_dropout is not None:
        vision_fields["patch_dropout"] = arguments.patch_dropout
    if arguments.loss_type is not None:
        fields["loss_type"] = arguments.loss_type

    most_tokens = text_fields.get("max_position_embeddings", preset_config(preset).text_config.max_position_embeddings)
    tokenizer = choose_tokenizer(arguments, data, most_tokens)
    text_fields |= {"vocab_size": len(tokenizer)}
    text_fields |= {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = preset_config(preset, **fields)
    model = AutoModel.from_config(config)
    if tower is None:
        height, width = config.vision_config.image_height_width
        size = {"height": height, "width": width}
        # A crop wider than the resized image would be padded.
        image_processor = CLIPImageProcessor(
            size={"shortest_edge": height} if height == width else size, crop_size=size
        )
    else:
        encoder = open_pretrained(AutoModel, arguments.image_tower)
        take_over_encoder(model.vision_model, encoder, with_norm=tower.pooling == "cls")
        image_processor = as_clip_processor(open_pretrained(AutoImageProcessor, arguments.image_tower))
    return model, CLIPProcessor(image_processor, tokenizer)


def plain_config(name: str) -> SuiteViTConfig:
    """The `SuiteViTConfig` of a vision transformer of any family of the suite.

    Raises:
        ValueError: If it is not of the suite.
    """
    config: PretrainedConfig = open_pretrained(AutoConfig, name)
    if is_pretrained_encoder(config):
        return config.encoder_config(pooling=config.fine_tuning_pooling)
    if not isinstance(config, SuiteViTConfig):
        raise ValueError(f"--image_tower {name} is no vision transformer of the suite but a {config.model_type}")
    return config


def as_clip_processor(processor) -> CLIPImageProcessor:
    """A CLIPImageProcessor with the output of another image processor."""
    height, width = input_size(processor)
    does_crop = bool(getattr(processor, "do_center_crop", None))
    return CLIPImageProcessor(
        size=dict(processor.size),
        crop_size={"height": height, "width": width},
        do_center_crop=does_crop,
        resample=processor.resample,
        do_normalize=processor.do_normalize,
        image_mean=processor.image_mean,
        image_std=processor.image_std,
    )


def choose_tokenizer(
    arguments: CLIPModelArguments, data: CaptionedImages, most_tokens: int
) -> PreTrainedTokenizerBase:
    """The tokenizer that the arguments name, or one trained on the captions.

    Raises:
        ValueError: If it can't be opened, or lacks the end-of-text or padding token.
    """
    if not arguments.train_tokenizer:
        name = arguments.tokenizer or PAPER_TOKENIZER
        try:
            tokenizer = open_pretrained(AutoTokenizer, name)
        except ValueError as error:
            raise ValueError(
                f"{error}; where no tokenizer can be had, --train_tokenizer makes one from the captions"
            ) from error
        if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
            raise ValueError(f"--tokenizer {name} has no end-of-text or no padding token")
        return tokenizer
    if arguments.tokenizer is not None:
        raise ValueError("give one of --tokenizer and --train_tokenizer")
    return train_tokenizer(all_captions(data), arguments.vocab_size, most_tokens)


def all_captions(data: CaptionedImages) -> Iterator[str]:
    """Every caption; this reads a stream once."""
    for captions in data.rows.select_columns("text"):
        yield from captions["text"]
