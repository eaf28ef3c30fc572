"""Fine-tuning an image classifier: data, model, Trainer, figures, and a folder that AutoModel opens.

`finetune` reads as its stages. What a stage does is beside it; what Trainer does is transformers'.
"""

import os
import shutil
import time
from pathlib import Path

from datasets import IterableDataset
from transformers import EarlyStoppingCallback, PreTrainedModel, TrainerCallback, set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, PredictionOutput

from ..data import (
    AugmentedImages,
    ImageMixer,
    ImageTransform,
    LabelledImages,
    apply_transform,
    collate_images,
    evaluation_transform,
    load_image_dataset,
    training_transform,
)
from .arguments import DataArguments, FinetuneTrainingArguments, ModelArguments, RecipeArguments
from .building import build_model
from .distillation import Teacher
from .ema import EMA_FILE, WeightAverage
from .metrics import classification_metrics, cross_entropy
from .results import check_reload, save_results
from .trainer import ClassificationTrainer, first_output

# What Trainer writes last into a checkpoint: without it the checkpoint was cut off.
TRAINER_STATE = "trainer_state.json"


def finetune(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    recipe: RecipeArguments,
    training_arguments: FinetuneTrainingArguments,
) -> dict:
    """Trains a classifier and leaves a model folder at `training_arguments.output_dir`.

    The folder holds weights, config, image processor and code, metrics.json, curves.png, confusion_matrix.png,
    attention.png (for models of the suite) and a model card README.md, beside Trainer's checkpoints.

    Returns:
        What metrics.json holds: metrics and image counts by split, parameters, seconds of training.

    Raises:
        ValueError: If the arguments don't fit together, the data or the checkpoint don't suit, or the output folder
            holds another model.
    """
    if training_arguments.hub_token is not None:
        # Trainer would save the token with its arguments, and push it.
        os.environ["HF_TOKEN"], training_arguments.hub_token = training_arguments.hub_token, None
    resume_from = prepare_output_dir(training_arguments, recipe)
    set_seed(training_arguments.seed)
    with training_arguments.main_process_first(desc="loading data"):
        data = load_image_dataset(
            data_arguments.dataset,
            image_column=data_arguments.image_column,
            label_column=data_arguments.label_column,
            validation_fraction=data_arguments.validation_fraction,
            test_fraction=data_arguments.test_fraction,
            seed=training_arguments.seed,
            streaming=data_arguments.streaming,
            strict_images=data_arguments.strict_images,
        )
    model, processor = build_model(model_arguments, data.label_names)
    trainer = build_trainer(model, processor, data, recipe, training_arguments, resume_from)

    if training_arguments.should_save and resume_from is None:
        for old in checkpoints(Path(training_arguments.output_dir)):
            shutil.rmtree(old)
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=resume_from)
    seconds = time.perf_counter() - started
    merge_adapters(trainer)

    report, predictions = evaluate(trainer, data)
    report["seconds_of_training"] = round(seconds, 1)
    if trainer.is_world_process_zero():
        save_results(trainer, data, model_arguments, data_arguments, report, predictions)
        check_reload(trainer, data)
    if training_arguments.push_to_hub:
        trainer.push_to_hub()
    return report


def prepare_output_dir(arguments: FinetuneTrainingArguments, recipe: RecipeArguments) -> str | None:
    """Refuses to mix two models in one folder; returns the checkpoint to resume from, if any."""
    folder = Path(arguments.output_dir)
    if arguments.resume_from_checkpoint is not None:
        return checkpoint_to_resume(arguments.resume_from_checkpoint, folder, recipe)
    if not arguments.should_save:
        return None
    old = [path for path in (folder / "config.json", *checkpoints(folder)) if path.exists()]
    if old and not arguments.overwrite_output_dir:
        raise ValueError(
            f"{folder} holds a model already ({old[0].name}): choose another --output_dir, go on with it by "
            "--resume_from_checkpoint last, or replace it by --overwrite_output_dir"
        )
    return None


def checkpoints(folder: Path) -> list[Path]:
    """Trainer's checkpoint folders."""
    return list(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"))


def checkpoint_to_resume(value: str, folder: Path, recipe: RecipeArguments) -> str:
    """The checkpoint folder that `--resume_from_checkpoint` names; "last" or "true" is the last complete one."""
    last_written = EMA_FILE if recipe.ema_decay else TRAINER_STATE
    if value.lower() not in ("last", "true"):
        if not Path(value, TRAINER_STATE).is_file():
            raise ValueError(f"--resume_from_checkpoint: {value} is no checkpoint folder (it has no {TRAINER_STATE})")
        return value
    complete = [path for path in checkpoints(folder) if (path / last_written).is_file()]
    if not complete:
        raise ValueError(f"--resume_from_checkpoint: {folder} has no complete checkpoint, start without it")
    return str(max(complete, key=lambda path: int(path.name.split("-")[-1])))


def build_trainer(
    model: PreTrainedModel,
    processor,
    data: LabelledImages,
    recipe: RecipeArguments,
    arguments: FinetuneTrainingArguments,
    resume_from: str | None,
) -> ClassificationTrainer:
    """The Trainer with transformed data and the recipe's parts."""
    is_stream = isinstance(data.splits["train"], IterableDataset)
    if is_stream and arguments.max_steps <= 0:
        raise ValueError("a streamed data set has no length: say with --max_steps how long to train")
    augment = training_transform(
        processor,
        random_resized_crop=recipe.random_resized_crop,
        crop_scale=(recipe.crop_scale, 1.0),
        horizontal_flip=recipe.horizontal_flip,
        rand_augment=recipe.rand_augment,
        random_erasing=recipe.random_erasing,
    )
    train_rows = data.splits["train"]
    if is_stream:
        train_rows = apply_transform(train_rows, ImageTransform(augment))
    else:
        train_rows = AugmentedImages(train_rows, ImageTransform(augment), arguments.data_seed or arguments.seed)
    callbacks: list[TrainerCallback] = []
    if recipe.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(recipe.early_stopping_patience))
    return ClassificationTrainer(
        recipe=recipe,
        mixer=ImageMixer(len(data.label_names), recipe.mixup, recipe.cutmix),
        teacher=Teacher(recipe.teacher, data.label_names, processor) if recipe.teacher is not None else None,
        average=WeightAverage(recipe.ema_decay, resume_from) if recipe.ema_decay else None,
        model=model,
        args=arguments,
        data_collator=collate_images,
        train_dataset=train_rows,
        eval_dataset=apply_transform(data.splits["validation"], ImageTransform(evaluation_transform(processor))),
        processing_class=processor,
        compute_metrics=classification_metrics,
        preprocess_logits_for_metrics=first_output,
        callbacks=callbacks,
    )


def merge_adapters(trainer: ClassificationTrainer) -> None:
    """Folds LoRA adapters into the weights, so that the folder opens without peft."""
    if hasattr(trainer.model, "merge_and_unload"):
        trainer.model = trainer.model_wrapped = trainer.model.merge_and_unload()


def evaluate(trainer: ClassificationTrainer, data: LabelledImages) -> tuple[dict, PredictionOutput]:
    """Metrics of the validation and test images, and the test predictions."""
    transform = ImageTransform(evaluation_transform(trainer.processing_class))
    outputs = {
        split: trainer.predict(apply_transform(data.splits[split], transform), metric_key_prefix=split)
        for split in ("validation", "test")
    }
    metrics = {
        split: {
            name: output.metrics[f"{split}_{name}"]
            for name in ("accuracy", "top5_accuracy", "f1_macro")
            if f"{split}_{name}" in output.metrics
        }
        | {"loss": cross_entropy(output)}
        for split, output in outputs.items()
    }
    images = {split: len(output.label_ids) for split, output in outputs.items()}
    if not isinstance(data.splits["train"], IterableDataset):
        images["train"] = len(data.splits["train"])
    report = {
        "metrics": metrics,
        "images": images,
        "skipped_images": data.skipped,
        "epochs": trainer.state.epoch,
        "steps": trainer.state.global_step,
        "parameters": trainer.model.num_parameters(),
    }
    return report, outputs["test"]
