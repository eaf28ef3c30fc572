"""Pretrains a masked autoencoder with transformers' Trainer, like its example `run_mae.py`.

    python examples/masked_autoencoder.py --data_dir photos/ --output_dir outputs/mae --mask_ratio 0.75 --norm_pix_loss

The data folder has images, in sub-folders or not. All arguments of `TrainingArguments` are accepted too. Without
`--model_name_or_path` the model starts with random weights. `hf-vit-suite pretrain mae` has the paper's full recipe.
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

import hf_vit_suite  # registers its models with the Auto classes


@dataclass
class DataArguments:
    """Model and data."""

    data_dir: str = field(metadata={"help": "folder of images"})
    model_name_or_path: str | None = field(default=None, metadata={"help": "folder or Hub name to continue from"})
    preset: str = field(default="mae_vit_base", metadata={"help": "architecture of a new model: hf-vit-suite models"})
    mask_ratio: float = field(default=0.75, metadata={"help": "fraction of patches that are masked"})
    norm_pix_loss: bool = field(default=False, metadata={"help": "predict pixels normalised within each patch"})
    train_val_split: float = field(default=0.15, metadata={"help": "fraction of the images held out for evaluation"})
    base_learning_rate: float = field(default=1.5e-4, metadata={"help": "learning rate for 256 images per step"})


def main() -> None:
    """Trains, saves and evaluates."""
    data, arguments = HfArgumentParser((DataArguments, TrainingArguments)).parse_args_into_dataclasses()
    arguments.remove_unused_columns = False  # the transform needs the column of images
    arguments.label_names = ["pixel_values"]  # without labels the Trainer evaluates no loss
    images = load_dataset("imagefolder", data_dir=data.data_dir, split="train")
    splits = images.train_test_split(data.train_val_split, seed=arguments.seed)

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
    splits.set_transform(lambda rows: {"pixel_values": [augment(image) for image in rows["image"]]})
    images_per_step = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    arguments.learning_rate = data.base_learning_rate * images_per_step / 256

    trainer = Trainer(
        model, arguments, train_dataset=splits["train"], eval_dataset=splits["test"], processing_class=processor
    )
    result = trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    trainer.save_model()
    trainer.save_state()
    for stage, metrics in (("train", result.metrics), ("eval", trainer.evaluate())):
        trainer.log_metrics(stage, metrics)
        trainer.save_metrics(stage, metrics)


if __name__ == "__main__":
    main()
