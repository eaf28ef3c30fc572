"""Fine-tuning an image classifier: data, model, Trainer, figures, and a folder that AutoModel opens.

`finetune` reads as its stages. What a stage does is beside it; what Trainer does is transformers'.
"""

from collections.abc import Sequence

from datasets import IterableDataset
from transformers import (
    AutoModelForImageClassification,
    EarlyStoppingCallback,
    PreTrainedModel,
    TrainerCallback,
    set_seed,
)
from transformers.trainer_utils import PredictionOutput

from ..data import (
    ImageMixer,
    ImageTransform,
    LabelledImages,
    apply_transform,
    collate_images,
    evaluation_transform,
    load_image_dataset,
    training_transform,
)
from .arguments import DataArguments, FinetuneTrainingArguments, ModelArguments, RecipeArguments, job_defaults
from .building import build_model
from .calls import command_line, python_call
from .checkpoints import TRAINER_STATE, prepare_output_dir, train
from .command import parse
from .distillation import Teacher
from .ema import EMA_FILE, WeightAverage
from .metrics import classification_metrics, cross_entropy
from .results import check_reload, first_test_images, save_results
from .trainer import ClassificationTrainer, first_output, training_rows

# How many test images the reopened model is compared on.
RELOADED_IMAGES = 64


def run(arguments: Sequence[str]) -> None:
    """`hf-vit-suite finetune`."""
    parsed = parse(
        arguments,
        "finetune",
        "Fine-tunes an image classifier and leaves a folder that AutoModel opens.",
        (ModelArguments, DataArguments, RecipeArguments, FinetuneTrainingArguments),
        job_defaults,
    )
    report = finetune(*parsed, command=command_line("finetune", arguments, parsed[-1].hub_token))
    print(f"test accuracy {report['metrics']['test']['accuracy']:.4f} on {report['images']['test']} images")


def finetune(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    recipe: RecipeArguments,
    training_arguments: FinetuneTrainingArguments,
    command: str | None = None,
) -> dict:
    """Trains a classifier and leaves a model folder at `training_arguments.output_dir`.

    The folder holds weights, config, image processor and code, metrics.json, curves.png, confusion_matrix.png,
    attention.png (for models of the suite) and a model card README.md, beside Trainer's checkpoints.

    Args:
        model_arguments: Which model.
        data_arguments: Which data.
        recipe: How it learns.
        training_arguments: Trainer's own.
        command: The command line that the run came from, for the model card; default the call from Python.

    Returns:
        What metrics.json holds: metrics and image counts by split, parameters, seconds of training.

    Raises:
        ValueError: If the arguments don't fit together, the data or the checkpoint don't suit, or the output folder
            holds another model.
    """
    command = command or python_call("finetune", model_arguments, data_arguments, recipe, training_arguments)
    training_arguments.keep_token_out_of_files()
    resume_from = prepare_output_dir(training_arguments, EMA_FILE if recipe.ema_decay else TRAINER_STATE)
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

    seconds = train(trainer, resume_from)
    merge_adapters(trainer)

    report, predictions = evaluate(trainer, data)
    report["seconds_of_training"] = seconds
    if trainer.is_world_process_zero():
        save_results(trainer, data, model_arguments, data_arguments, report, predictions, command)
        pixel_values = first_test_images(trainer, data, RELOADED_IMAGES)
        check_reload(
            trainer, report, AutoModelForImageClassification, lambda model: model(pixel_values.to(model.device)).logits
        )
    if training_arguments.push_to_hub:
        trainer.push_to_hub()
    return report


def build_trainer(
    model: PreTrainedModel,
    processor,
    data: LabelledImages,
    recipe: RecipeArguments,
    arguments: FinetuneTrainingArguments,
    resume_from: str | None,
) -> ClassificationTrainer:
    """The Trainer with transformed data and the recipe's parts."""
    augment = training_transform(
        processor,
        random_resized_crop=recipe.random_resized_crop,
        crop_scale=(recipe.crop_scale, 1.0),
        horizontal_flip=recipe.horizontal_flip,
        rand_augment=recipe.rand_augment,
        random_erasing=recipe.random_erasing,
    )
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
        train_dataset=training_rows(data.splits["train"], ImageTransform(augment), arguments),
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
