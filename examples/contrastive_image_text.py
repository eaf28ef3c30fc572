r"""Trains an image tower and a text tower on captioned images with transformers' Trainer, like its `run_clip.py`.

    python examples/contrastive_image_text.py --model_name_or_path outputs/clip --data_dir captioned/ \
        --output_dir outputs/more

The data folder has images and a `metadata.csv` with the columns `file_name` and `text`. All arguments of
`TrainingArguments` are accepted too. The model is a CLIP of the suite or of transformers, or a
`VisionTextDualEncoderModel`, with tokenizer and image processor in its folder. `hf-vit-suite pretrain clip` has the
paper's full recipe.
"""

from dataclasses import dataclass, field

import torch
from datasets import load_dataset
from torchvision.transforms import InterpolationMode, v2
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, HfArgumentParser, Trainer, TrainingArguments

import hf_vit_suite  # noqa: F401  (registers its models with the Auto classes)


@dataclass
class DataArguments:
    """Model and data."""

    model_name_or_path: str = field(metadata={"help": "folder or Hub name of a model with tokenizer and processor"})
    data_dir: str = field(metadata={"help": "folder of images with a metadata.csv: file_name, text"})
    most_tokens: int = field(default=77, metadata={"help": "maximum caption length; longer captions are truncated"})
    freeze_vision_model: bool = field(default=False, metadata={"help": "do not train the image tower"})
    freeze_text_model: bool = field(default=False, metadata={"help": "do not train the text tower"})
    train_val_split: float = field(default=0.2, metadata={"help": "fraction of the images held out for evaluation"})


def collate(rows: list[dict]) -> dict:
    """Stacks rows into a batch that asks for the loss."""
    names = ("pixel_values", "input_ids", "attention_mask")
    return {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in names} | {"return_loss": True}


def main() -> None:
    """Trains, saves and evaluates."""
    data, arguments = HfArgumentParser((DataArguments, TrainingArguments)).parse_args_into_dataclasses()
    arguments.remove_unused_columns = False  # the transform needs the column of images
    pairs = load_dataset("imagefolder", data_dir=data.data_dir, split="train")
    splits = pairs.train_test_split(data.train_val_split, seed=arguments.seed)

    processor = AutoImageProcessor.from_pretrained(data.model_name_or_path)
    tokenizer = AutoTokenizer.from_pretrained(data.model_name_or_path)
    model = AutoModel.from_pretrained(data.model_name_or_path)
    for tower, frozen in ((model.vision_model, data.freeze_vision_model), (model.text_model, data.freeze_text_model)):
        if frozen:
            tower.requires_grad_(False)

    side = processor.size.get("shortest_edge") or processor.size["height"]
    prepare = v2.Compose(
        [
            v2.RGB(),
            v2.Resize(side, interpolation=InterpolationMode.BICUBIC),
            v2.CenterCrop(side),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(processor.image_mean, processor.image_std),
        ]
    )

    def transform(rows: dict) -> dict:
        texts = tokenizer(rows["text"], max_length=data.most_tokens, padding="max_length", truncation=True)
        return {**texts, "pixel_values": [prepare(image) for image in rows["image"]]}

    splits.set_transform(transform)
    trainer = Trainer(
        model, arguments, data_collator=collate, train_dataset=splits["train"], eval_dataset=splits["test"]
    )
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    trainer.save_model()
    trainer.save_state()
    for part in (processor, tokenizer):
        part.save_pretrained(arguments.output_dir)
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)


if __name__ == "__main__":
    main()
