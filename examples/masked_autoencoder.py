"""Pretrains a masked autoencoder by transformers' Trainer, as its example `run_mae.py` does.

    python examples/masked_autoencoder.py --data_dir photos/ --output_dir outputs/mae --mask_ratio 0.75 --norm_pix_loss

The data are a folder of pictures, with or without sub-folders. Every argument of `TrainingArguments` is taken too.
Without `--model_name_or_path` the model starts with random weights. `hf-vit-suite pretrain mae` has the whole recipe.
"""

from dataclasses import dataclass, field

import torch
from datasets import load_dataset
from torchvision.transforms import InterpolationMode, v2
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForPreTraining,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    ViTImageProcessor,
)

import hf_vit_suite  # (the Auto classes now open its models)


@dataclass
class DataArguments:
    """Model and data."""

    data_dir: str = field(metadata={"help": "folder of pictures"})
    model_name_or_path: str | None = field(default=None, metadata={"help": "folder or Hub name to go on from"})
    preset: str = field(default="mae_vit_base", metadata={"help": "architecture of a new model: hf-vit-suite models"})
    mask_ratio: float = field(default=0.75, metadata={"help": "share of the patches that the encoder does not see"})
    norm_pix_loss: bool = field(default=False, metadata={"help": "predict pixels normalised in each patch"})
    base_learning_rate: float = field(default=1.5e-4, metadata={"help": "learning rate of 256 pictures a step"})


def main() -> None:
    """Trains and saves."""
    data, arguments = HfArgumentParser((DataArguments, TrainingArguments)).parse_args_into_dataclasses()
    arguments.remove_unused_columns = False  # the transform reads the pictures
    pictures = load_dataset("imagefolder", data_dir=data.data_dir, split="train")

    if data.model_name_or_path:
        config = AutoConfig.from_pretrained(data.model_name_or_path)
        processor = AutoImageProcessor.from_pretrained(data.model_name_or_path)
    else:
        config = hf_vit_suite.preset_config(data.preset)
        height, width = config.image_height_width
        processor = ViTImageProcessor(size={"height": height, "width": width})
    config.update({"mask_ratio": data.mask_ratio, "norm_pix_loss": data.norm_pix_loss})
    if data.model_name_or_path:
        model = AutoModelForPreTraining.from_pretrained(data.model_name_or_path, config=config)
    else:
        model = AutoModelForPreTraining.from_config(config)

    size = (processor.size["height"], processor.size["width"])
    augment = v2.Compose(
        [
            v2.RGB(),
            v2.RandomResizedCrop(size, scale=(0.2, 1), interpolation=InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(processor.image_mean, processor.image_std),
        ]
    )
    pictures.set_transform(lambda rows: {"pixel_values": [augment(image) for image in rows["image"]]})
    pictures_a_step = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    arguments.learning_rate = data.base_learning_rate * pictures_a_step / 256

    trainer = Trainer(model, arguments, train_dataset=pictures, processing_class=processor)
    metrics = trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint).metrics
    trainer.save_model()
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)


if __name__ == "__main__":
    main()
