"""Fine-tunes an image classifier with Accelerate alone, like transformers' `run_image_classification_no_trainer.py`.

    accelerate launch examples/image_classification_no_trainer.py outputs/digits photos/ outputs/photos

The data folder has a sub-folder of images for each class. Accelerate's options set precision and number of processes:
`accelerate launch --mixed_precision bf16 --num_processes 2 ...`.
"""

import argparse
import math
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import load_dataset
from torch.utils.data import DataLoader
from transformers import AutoImageProcessor, AutoModelForImageClassification, get_scheduler

import hf_vit_suite  # noqa: F401  (registers its models with the Auto classes)


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder or Hub name of a model with its image processor")
    parser.add_argument("data_dir", help="folder with a sub-folder of images for each class")
    parser.add_argument("output_dir", help="folder for the trained model")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=8, help="images per process per batch")
    parser.add_argument("--learning_rate", type=float, default=5e-5)
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1, help="batches per optimizer step")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--save_epochs", action="store_true", help="save the training state after each epoch")
    parser.add_argument("--resume_from_checkpoint", type=Path, help="training state to resume from: .../epoch_N")
    return parser.parse_args()


def main() -> None:
    """Trains, evaluates after each epoch and saves."""
    options = parse()
    accelerator = Accelerator(gradient_accumulation_steps=options.gradient_accumulation_steps)
    set_seed(options.seed)
    images = load_dataset("imagefolder", data_dir=options.data_dir, split="train")
    splits = images.train_test_split(0.2, seed=options.seed, stratify_by_column="label")
    names = images.features["label"].names
    processor = AutoImageProcessor.from_pretrained(options.model)
    model = AutoModelForImageClassification.from_pretrained(
        options.model,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        ignore_mismatched_sizes=True,
    )

    def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = processor([row["image"].convert("RGB") for row in rows], return_tensors="pt")
        return {**batch, "labels": torch.tensor([row["label"] for row in rows])}

    batches = {"batch_size": options.batch_size, "collate_fn": collate}
    train_loader = DataLoader(splits["train"], shuffle=True, **batches)
    eval_loader = DataLoader(splits["test"], **batches)
    optimizer = torch.optim.AdamW(model.parameters(), options.learning_rate)
    model, optimizer, train_loader, eval_loader = accelerator.prepare(model, optimizer, train_loader, eval_loader)
    steps = options.epochs * math.ceil(len(train_loader) / options.gradient_accumulation_steps)
    schedule = accelerator.prepare(get_scheduler("linear", optimizer, 0, steps * accelerator.num_processes))

    epochs_done = 0
    if options.resume_from_checkpoint:
        accelerator.load_state(str(options.resume_from_checkpoint))
        epochs_done = int(options.resume_from_checkpoint.name.removeprefix("epoch_"))
    for epoch in range(epochs_done + 1, options.epochs + 1):
        model.train()
        for batch in train_loader:
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        model.eval()
        hits = []
        for batch in eval_loader:
            with torch.no_grad():
                predicted = model(**batch).logits.argmax(dim=-1)
            hits.append(accelerator.gather_for_metrics(predicted == batch["labels"]))
        accelerator.print(
            f"epoch {epoch}: accuracy {torch.cat(hits).float().mean().item():.4f}, loss {loss.item():.4f}"
        )
        if options.save_epochs:
            accelerator.save_state(f"{options.output_dir}/epoch_{epoch}")

    accelerator.wait_for_everyone()
    accelerator.unwrap_model(model).save_pretrained(
        options.output_dir, is_main_process=accelerator.is_main_process, save_function=accelerator.save
    )
    if accelerator.is_main_process:
        processor.save_pretrained(options.output_dir)
    accelerator.wait_for_everyone()  # a process that ends early can abort one that is still saving
    accelerator.end_training()


if __name__ == "__main__":
    main()
