r"""Fine-tunes an image classifier with transformers' Trainer, like its example `run_image_classification.py`.

    python examples/image_classification.py --model_name_or_path outputs/digits --data_dir photos/ \
        --output_dir outputs/photos

The data folder has a sub-folder of images for each class. All arguments of `TrainingArguments` are accepted too.
"""

from dataclasses import dataclass, field

import torch
from datasets import load_dataset
from sklearn.metrics import accuracy_score
from torchvision.transforms import v2
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    EvalPrediction,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
)

import hf_vit_suite  # noqa: F401  (registers its models with the Auto classes)


@dataclass
class DataArguments:
    """Model and data."""

    model_name_or_path: str = field(metadata={"help": "folder or Hub name of a model with its image processor"})
    data_dir: str = field(metadata={"help": "folder with a sub-folder of images for each class"})
    train_val_split: float = field(default=0.2, metadata={"help": "fraction of the images held out for evaluation"})


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Fraction of the images whose class has the largest logit."""
    return {"accuracy": float(accuracy_score(prediction.label_ids, prediction.predictions.argmax(axis=-1)))}


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Stacks rows into a batch."""
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": torch.tensor([row["label"] for row in rows]),
    }


def main() -> None:
    """Trains, evaluates and saves."""
    data, arguments = HfArgumentParser((DataArguments, TrainingArguments)).parse_args_into_dataclasses()
    arguments.remove_unused_columns = False  # the transform needs the column of images
    images = load_dataset("imagefolder", data_dir=data.data_dir, split="train")
    splits = images.train_test_split(data.train_val_split, seed=arguments.seed, stratify_by_column="label")
    names = images.features["label"].names

    processor = AutoImageProcessor.from_pretrained(data.model_name_or_path)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    config = AutoConfig.from_pretrained(data.model_name_or_path, num_labels=len(names), **labels)
    model = AutoModelForImageClassification.from_pretrained(
        data.model_name_or_path, config=config, ignore_mismatched_sizes=True
    )

    size = (processor.size["height"], processor.size["width"])
    convert = [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(processor.image_mean, processor.image_std),
    ]
    augment = v2.Compose([v2.RGB(), v2.RandomResizedCrop(size, scale=(0.6, 1)), v2.RandomHorizontalFlip(), *convert])
    resize = v2.Compose([v2.RGB(), v2.Resize(size), *convert])
    splits["train"].set_transform(lambda rows: rows | {"pixel_values": [augment(image) for image in rows["image"]]})
    splits["test"].set_transform(lambda rows: rows | {"pixel_values": [resize(image) for image in rows["image"]]})

    trainer = Trainer(
        model,
        arguments,
        data_collator=collate,
        train_dataset=splits["train"],
        eval_dataset=splits["test"],
        processing_class=processor,
        compute_metrics=accuracy,
    )
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    trainer.save_model()
    trainer.save_state()
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)


if __name__ == "__main__":
    main()
