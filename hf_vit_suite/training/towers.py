"""The model and processor that CLIP's pretraining starts from: two towers, images' statistics, a tokenizer."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPProcessor,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..argument_types import parse_overrides
from ..data import CaptionedImages, input_size, train_tokenizer
from ..models.configuration_clip import SuiteCLIPConfig
from ..models.configuration_vit import SuiteViTConfig
from ..models.presets import list_presets, preset_config
from ..opening import is_pretrained_encoder, open_pretrained
from .building import set_input_size, take_over_encoder

DEFAULT_PRESET = "clip_vit_b_32"
PAPER_TOKENIZER = "openai/clip-vit-base-patch32"
FROM_SCRATCH = ("preset", "config_overrides", "image_tower", "tokenizer", "train_tokenizer")


@dataclass
class CLIPModelArguments:
    """Which towers."""

    preset: str | None = field(
        default=None, metadata={"help": f"Architecture to train from scratch; default {DEFAULT_PRESET}."}
    )
    model: str | None = field(
        default=None, metadata={"help": "CLIP folder or Hub name of the suite to go on with, in place of a preset."}
    )
    config_overrides: str | None = field(
        default=None,
        metadata={"help": "Changes to the preset, e.g. vision_config.patch_size=8,text_config.num_hidden_layers=6."},
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Side of the square input in pixels; default the model's own."}
    )
    image_tower: str | None = field(
        default=None,
        metadata={
            "help": "Folder of a vision transformer of the suite (of any family) to start the image tower from."
        },
    )
    lock_image_tower: bool = field(
        default=False, metadata={"help": "Leave the image tower as it is and train the rest (LiT, arXiv 2111.07991)."}
    )
    patch_dropout: float | None = field(
        default=None, metadata={"help": "Share of the patches left out in training; default the model's own, 0."}
    )
    loss_type: str | None = field(
        default=None, metadata={"help": "softmax (CLIP) or sigmoid (SigLIP); default the model's own, softmax."}
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": f"Folder or Hub name of a CLIP tokenizer; default {PAPER_TOKENIZER}."}
    )
    train_tokenizer: bool = field(
        default=False, metadata={"help": "Train a byte-level tokenizer on the captions in place of a given one."}
    )
    vocab_size: int = field(default=49408, metadata={"help": "Most tokens of a tokenizer that is trained."})


def build_towers(arguments: CLIPModelArguments, data: CaptionedImages) -> tuple[PreTrainedModel, CLIPProcessor]:
    """The model to train and its processor.

    Args:
        arguments: Of the recipe.
        data: Whose captions a new tokenizer learns.

    Raises:
        ValueError: If the arguments don't fit together, or what they name is of another kind.
    """
    if arguments.model is None:
        model, processor = new_towers(arguments, data)
    else:
        model, processor = trained_towers(arguments)
    if arguments.image_size is not None:
        set_input_size(processor.image_processor, arguments.image_size)
    if arguments.lock_image_tower:
        model.vision_model.requires_grad_(False)
    return model, processor


def trained_towers(arguments: CLIPModelArguments) -> tuple[PreTrainedModel, CLIPProcessor]:
    """A model that has been trained before."""
    if given := [f"--{name}" for name in FROM_SCRATCH if getattr(arguments, name)]:
        raise ValueError(f"{', '.join(given)}: for training from scratch, --model has its own")
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
    """A preset's model, whose image tower may have been trained before."""
    preset = arguments.preset or DEFAULT_PRESET
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
                "--config_overrides of vision_config and --image_tower: the tower is what it is, give one"
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
        image_processor = CLIPImageProcessor(
            size={"shortest_edge": min(height, width)}, crop_size={"height": height, "width": width}
        )
    else:
        encoder = open_pretrained(AutoModel, arguments.image_tower)
        take_over_encoder(model.vision_model, encoder, with_norm=tower.pooling == "cls")
        image_processor = as_clip_processor(open_pretrained(AutoImageProcessor, arguments.image_tower))
    return model, CLIPProcessor(image_processor, tokenizer)


def plain_config(name: str) -> SuiteViTConfig:
    """The configuration of a vision transformer of the suite, of whichever family.

    Raises:
        ValueError: If it is none of the suite's.
    """
    config: PretrainedConfig = open_pretrained(AutoConfig, name)
    if is_pretrained_encoder(config):
        return config.encoder_config(pooling=config.fine_tuning_pooling)
    if not isinstance(config, SuiteViTConfig):
        raise ValueError(f"--image_tower {name} is no vision transformer of the suite but a {config.model_type}")
    return config


def as_clip_processor(processor) -> CLIPImageProcessor:
    """A CLIPImageProcessor that yields what another image processor yields."""
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
        ValueError: If it can't be opened, has no end of text, or the data are streamed and can't be learned from.
    """
    if not arguments.train_tokenizer:
        name = arguments.tokenizer or PAPER_TOKENIZER
        try:
            tokenizer = open_pretrained(AutoTokenizer, name)
        except ValueError as error:
            raise ValueError(
                f"{error}; where no tokenizer can be had, --train_tokenizer makes one of the captions"
            ) from error
        if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
            raise ValueError(f"--tokenizer {name} has no tokens for the end of a text and for what follows it")
        return tokenizer
    if arguments.tokenizer is not None:
        raise ValueError("give one of --tokenizer and --train_tokenizer")
    return train_tokenizer(all_captions(data), arguments.vocab_size, most_tokens)


def all_captions(data: CaptionedImages) -> Iterator[str]:
    """Every caption; a stream is read once for them."""
    for captions in data.rows.select_columns("text"):
        yield from captions["text"]
