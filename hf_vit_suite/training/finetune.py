"""Fine-tuning an image classifier: its arguments, its Trainer and its recipe."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Literal

import torch
import torch.nn.functional as F
from datasets import IterableDataset
from huggingface_hub import ModelCard
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import AutoConfig, AutoModelForImageClassification, EarlyStoppingCallback, TrainerCallback
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.trainer_utils import PredictionOutput

from ..config_overrides import overrides_as_text
from ..data import (
    ImageMixer,
    ImageTransform,
    LabelledImages,
    SourceArguments,
    apply_transform,
    collate_images,
    dataset_name,
    evaluation_transform,
    has_label,
    load_image_dataset,
    training_transform,
)
from ..data.labels import MULTI, REGRESSION, SINGLE
from ..data.rows import EvaluationRows
from ..evaluation.multi_label import best_thresholds, multi_label_report
from ..evaluation.plots import prediction_figures
from ..evaluation.problems import PROBLEMS, Problem
from ..explain import classifier_attention_figure
from ..hub import ClassifierFacts, classifier_card
from ..inference.opening import is_pretrained_encoder, open_pretrained
from .arguments import SuiteTrainingArguments
from .balance import BalancedSampler, class_weights, label_sentences, row_weights
from .building import ClassifierArguments, build_classifier
from .checkpoints import TRAINER_STATE
from .distillation import Teacher, distillation_loss
from .ema import EMA_FILE, WeightAverage
from .recipe import Recipe, ReloadCheck, Run, RunArguments
from .results import add_to_config, model_name, training_curves, training_sentence
from .trainer import SuiteTrainer, layer_decay_groups

LOSSES = {
    SINGLE: F.cross_entropy,
    MULTI: F.binary_cross_entropy_with_logits,
    REGRESSION: F.mse_loss,
}
RELOADED_IMAGES = 64
FIGURE_IMAGES = 4


@dataclass
class LabelledDataArguments(SourceArguments):
    """Data options of fine-tuning."""

    dataset: str = field(
        default="digits",
        metadata={"help": "digits, an image folder, a parquet or webdataset path, or a Hub data set"},
    )
    label_column: str | None = field(
        default=None, metadata={"help": "column of the labels, or several with commas between; default found by type"}
    )
    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] | None = field(
        default=None,
        metadata={"help": "one label an image, several, or values; default from the labels: lists are several"},
    )
    validation_fraction: float = field(
        default=0.1, metadata={"help": "fraction of the training images split off if there is no validation split"}
    )
    test_fraction: float = field(
        default=0.1, metadata={"help": "fraction of the training images split off if there is no test split"}
    )
    streaming: bool = field(default=False, metadata={"help": "read the data while training; needs --max_steps"})


@dataclass
class FinetuneMethodArguments:
    """Augmentation, regularisation and distillation; 0 turns an option off."""

    random_resized_crop: bool = field(default=True, metadata={"help": "crop a random part with a random aspect"})
    crop_scale: float = field(default=0.08, metadata={"help": "smallest fraction of the image that a crop keeps"})
    horizontal_flip: float = field(default=0.5, metadata={"help": "probability of a horizontal flip"})
    rand_augment: int = field(default=0, metadata={"help": "magnitude of RandAugment, up to 30; 9 in DeiT"})
    random_erasing: float = field(default=0.0, metadata={"help": "probability of erasing a rectangle; 0.25 in DeiT"})
    mixup: float = field(default=0.0, metadata={"help": "alpha of mixup; 0.8 in DeiT"})
    cutmix: float = field(default=0.0, metadata={"help": "alpha of cutmix; 1.0 in DeiT"})
    class_weights: str | None = field(
        default=None,
        metadata={"help": "weights of the classes in the training loss: balanced, or a JSON or YAML file by name"},
    )
    balanced_sampling: bool = field(
        default=False, metadata={"help": "draw training images so that classes come equally often"}
    )
    layer_decay: float = field(
        default=1.0,
        metadata={"help": "factor of the learning rate per layer, from last to first; 0.75 in MAE"},
    )
    ema_decay: float = field(
        default=0.0,
        metadata={"help": "decay of a moving average of the weights, which is then kept"},
    )
    early_stopping_patience: int = field(
        default=0, metadata={"help": "evaluations without improvement before stopping"}
    )
    teacher: str | None = field(
        default=None,
        metadata={"help": "classifier to distil from, a folder or a Hub name"},
    )
    distillation: Literal["hard", "soft"] = field(default="hard", metadata={"help": "hard or soft, as in DeiT"})
    distillation_alpha: float = field(default=0.5, metadata={"help": "weight of the teacher's part of the loss"})
    distillation_temperature: float = field(default=3.0, metadata={"help": "temperature of soft distillation"})


@dataclass
class FinetuneTrainingArguments(SuiteTrainingArguments):
    """TrainingArguments with the defaults of fine-tuning vision transformers."""

    output_dir: str | None = field(default="outputs/finetune", metadata={"help": "folder of the trained model"})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "evaluation images per device per step"})
    num_train_epochs: float = field(default=10.0, metadata={"help": "passes over the training images"})
    eval_strategy: str = field(default="epoch", metadata={"help": "when to evaluate: no, steps or epoch"})
    load_best_model_at_end: bool | None = field(
        default=None, metadata={"help": "keep the best checkpoint, not the last; default where each one is evaluated"}
    )
    metric_for_best_model: str | None = field(default="accuracy", metadata={"help": "metric of the best checkpoint"})

    def __post_init__(self):
        is_derived = self.load_best_model_at_end is None
        self.load_best_model_at_end = bool(self.load_best_model_at_end)
        super().__post_init__()
        if is_derived:
            self.load_best_model_at_end = self.metric_for_best_model is not None and self.evaluates_each_checkpoint

    @property
    def evaluates_each_checkpoint(self) -> bool:
        """Whether every saved checkpoint has an evaluation, without which none of them is the best."""
        if self.save_strategy == "best":
            return self.eval_strategy != "no"
        if self.save_strategy != self.eval_strategy or self.save_strategy == "no":
            return False
        if self.save_strategy != "steps":
            return True
        # Below 1 they are fractions of all steps, which transformers compares with no number of steps.
        are_alike = (self.save_steps < 1) == (self.eval_steps < 1)
        return are_alike and round(1e6 * self.save_steps) % round(1e6 * self.eval_steps) == 0


# Peak learning rates of AdamW at the default batch size, by what is trained.
LEARNING_RATES = {"scratch": 5e-4, "checkpoint": 1e-4, "linear_probe": 1e-2, "lora": 1e-3}

# From an encoder pretrained without labels (MAE, table 9): 1e-3 x 64 / 256, decayed by layer.
PRETRAINED_DEFAULTS = {"learning_rate": 2.5e-4, "layer_decay": 0.75}

# Defaults for the data set that comes with the package.
DATASET_DEFAULTS = {
    "digits": {
        # Digits are 8 x 8 pixels, so a small network is enough, and a mirrored digit is no digit.
        "preset": "vit_tiny_patch16_224",
        "config_overrides": "image_size=32,patch_size=8,num_hidden_layers=6",
        "horizontal_flip": 0.0,
        "crop_scale": 0.6,
        "rand_augment": 6,
        "num_train_epochs": 60.0,
    }
}


def job_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults that follow from the data and from what is trained."""
    known = given["dataset"] if isinstance(given["dataset"], str) else None
    defaults = dict(DATASET_DEFAULTS.get(known, {}))
    if given["model"] is not None or given["preset"] is not None:
        for name in ("preset", "config_overrides"):
            defaults.pop(name, None)
    modes = {"linear_probe": given["linear_probe"], "lora": given["lora"], "checkpoint": given["model"] is not None}
    mode = next((mode for mode, is_chosen in modes.items() if is_chosen), "scratch")
    defaults["learning_rate"] = LEARNING_RATES[mode]
    if (
        mode == "checkpoint"
        and given["preset"] is None
        and is_pretrained_encoder(open_pretrained(AutoConfig, given["model"]))
    ):
        defaults |= PRETRAINED_DEFAULTS
    return defaults


class ClassificationTrainer(SuiteTrainer):
    """Trainer of image classifiers.

    Args:
        method: Layer decay and distillation.
        mixer: Mixup and cutmix of training batches.
        problem_type: Of the labels, as in transformers' configs.
        label_weights: Weight of each class in the training loss `[labels]`, or `None`.
        row_weights: Chance of each training row `[rows]`, or `None` for every row once.
        teacher: Classifier to distil from, or `None`.
        average: Moving average of the weights, with which evaluation runs, or `None`.
        **kwargs: Trainer's own.
    """

    decays_tokens = False

    def __init__(
        self,
        method: FinetuneMethodArguments,
        mixer: ImageMixer,
        problem_type: str = SINGLE,
        label_weights: Tensor | None = None,
        row_weights: Tensor | None = None,
        teacher: Teacher | None = None,
        average: WeightAverage | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.method = method
        self.mixer = mixer
        self.problem_type = problem_type
        self.label_weights = label_weights.to(self.args.device) if label_weights is not None else None
        self.row_weights = row_weights
        self.teacher = teacher.to(self.args.device) if teacher is not None else None
        self.average = average
        if average is not None:
            self.add_callback(average)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new and self.method.layer_decay != 1:
            optimizer.param_groups = layer_decay_groups(
                model or self.model, optimizer.param_groups, self.args.learning_rate, self.method.layer_decay
            )
        return optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, ImageClassifierOutput]:
        """The loss of the labels, and in training the teacher's part."""
        pixel_values, labels = inputs["pixel_values"], inputs["labels"]
        if model.training:
            # Mixing here, not in the data loader, draws from the random state that checkpoints keep.
            pixel_values, labels = self.mixer(pixel_values, labels)
        outputs = model(pixel_values)
        if not model.training:
            kept = has_label(labels)
            # Rows in the place of unreadable images do not count; a batch of them alone has no mean.
            loss = LOSSES[self.problem_type](outputs.logits[kept], labels[kept]) if kept.any() else kept.sum().float()
        elif self.teacher is None:
            loss = self.label_loss(outputs.logits, labels)
        else:
            loss = self.distilled_loss(outputs, self.teacher(pixel_values), labels)
        return (loss, outputs) if return_outputs else loss

    def label_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The training loss, a scalar: cross-entropy, smoothed by `label_smoothing_factor`, of class numbers or mixed
        labels; binary cross-entropy of several labels; squared error of values."""
        if self.problem_type == SINGLE:
            smoothing = self.args.label_smoothing_factor
            return F.cross_entropy(logits, labels, weight=self.label_weights, label_smoothing=smoothing)
        if self.problem_type == MULTI:
            return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=self.label_weights)
        return F.mse_loss(logits, labels)

    def _get_train_sampler(self, train_dataset: torch.utils.data.Dataset | None = None) -> Sampler | None:
        if self.row_weights is None:
            return super()._get_train_sampler(train_dataset)
        return BalancedSampler(self.train_dataset, self.row_weights)

    def distilled_loss(self, outputs: ImageClassifierOutput, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        """DeiT's objective: the class head learns the labels, the distillation head the teacher."""
        class_logits = distillation_logits = outputs.logits
        if getattr(outputs, "distillation_logits", None) is not None:
            class_logits, distillation_logits = outputs.class_logits, outputs.distillation_logits
        of_teacher = distillation_loss(
            distillation_logits, teacher_logits, self.method.distillation, self.method.distillation_temperature
        )
        alpha = self.method.distillation_alpha
        return (1 - alpha) * self.label_loss(class_logits, labels) + alpha * of_teacher

    def evaluation_loop(self, *args, **kwargs):
        in_use = self.average.in_use(self.model) if self.average is not None else nullcontext()
        with in_use:
            return super().evaluation_loop(*args, **kwargs)


def first_output(logits: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """The logits among a model's outputs, for Trainer's `preprocess_logits_for_metrics`."""
    return logits[0] if isinstance(logits, tuple) else logits


def load_labelled(arguments: RunArguments) -> LabelledImages:
    """The three splits of the data."""
    data = arguments.data
    return load_image_dataset(
        data.dataset,
        label_column=data.label_column,
        problem_type=data.problem_type,
        validation_fraction=data.validation_fraction,
        test_fraction=data.test_fraction,
        seed=arguments.training.seed,
        streaming=data.streaming,
        **data.source_options(),
    )


def augmentation(run: Run) -> ImageTransform:
    """Augments training images."""
    method = run.arguments.method
    return ImageTransform(
        training_transform(
            run.processor,
            random_resized_crop=method.random_resized_crop,
            crop_scale=(method.crop_scale, 1.0),
            horizontal_flip=method.horizontal_flip,
            rand_augment=method.rand_augment,
            random_erasing=method.random_erasing,
        )
    )


def refuse_for_problem(run: Run) -> None:
    """Refuses options that the problem has no use for.

    Raises:
        ValueError: Naming the option.
    """
    method, problem_type = run.arguments.method, run.data.problem_type
    if problem_type == SINGLE:
        return
    for name, value in {
        "--teacher": method.teacher,
        "--label_smoothing_factor": run.arguments.training.label_smoothing_factor,
        **({"--mixup": method.mixup, "--cutmix": method.cutmix} if problem_type == REGRESSION else {}),
    }.items():
        if value:
            raise ValueError(f"{name} is for one label an image, and the labels are a {problem_type}: leave it out")


def choose_best_metric(training: FinetuneTrainingArguments, problem: Problem) -> None:
    """Replaces accuracy as the metric of the best checkpoint where the problem has none."""
    if training.metric_for_best_model == "accuracy" != problem.best:
        training.metric_for_best_model, training.greater_is_better = problem.best, problem.is_greater_better


def trainer_options(run: Run) -> dict[str, Any]:
    """Evaluation data and metrics, mixing, balance, teacher and average."""
    method, data = run.arguments.method, run.data
    problem = PROBLEMS[data.problem_type]
    refuse_for_problem(run)
    choose_best_metric(run.arguments.training, problem)
    return {
        "method": method,
        "mixer": ImageMixer(len(data.label_names), method.mixup, method.cutmix),
        "problem_type": data.problem_type,
        "label_weights": class_weights(method.class_weights, data),
        "row_weights": row_weights(data) if method.balanced_sampling else None,
        "teacher": Teacher(method.teacher, data.label_names, run.processor) if method.teacher is not None else None,
        "average": WeightAverage(method.ema_decay, run.resume_from) if method.ema_decay else None,
        "eval_dataset": evaluation_rows(run, "validation"),
        "compute_metrics": lambda output: problem.metrics(readable_only(output)),
        "preprocess_logits_for_metrics": first_output,
    }


def callbacks(run: Run) -> list[TrainerCallback]:
    """Early stopping.

    Raises:
        ValueError: If no checkpoint is the best one.
    """
    patience = run.arguments.method.early_stopping_patience
    if patience < 0:
        raise ValueError(f"--early_stopping_patience must be at least 0, got {patience}")
    if not patience:
        return []
    if not run.arguments.training.load_best_model_at_end:
        raise ValueError(
            "--early_stopping_patience keeps the best checkpoint, so each must be evaluated: give --save_strategy and "
            "--eval_strategy the same value, epoch or steps, or --save_strategy best"
        )
    return [EarlyStoppingCallback(patience)]


def report(run: Run) -> dict:
    """Measures the validation and test images."""
    trainer, data = run.trainer, run.data
    rows = {"validation": trainer.eval_dataset, "test": evaluation_rows(run, "test")}
    outputs = {split: readable_only(trainer.predict(part, metric_key_prefix=split)) for split, part in rows.items()}
    run.measured = outputs["test"]
    thresholds = keep_thresholds(run, outputs["validation"]) if data.problem_type == MULTI else None
    images = {split: len(output.label_ids) for split, output in outputs.items()}
    if not isinstance(data.splits["train"], IterableDataset):
        images["train"] = len(data.splits["train"])
    return {
        "problem_type": data.problem_type,
        "metrics": {split: split_metrics(output, data, thresholds) for split, output in outputs.items()},
        **({} if thresholds is None else {"thresholds": dict(zip(data.label_names, thresholds, strict=True))}),
        "images": images,
        "data": data.reading.report(),
        "skipped_images": data.skipped + trainer.unreadable_images(*rows.values()),
        "epochs": trainer.state.epoch,
        "steps": trainer.state.global_step,
        "parameters": trainer.model.num_parameters(),
    }


def evaluation_rows(run: Run, split: str) -> EvaluationRows | IterableDataset:
    """The images of a split as the image processor prepares them."""
    transform = ImageTransform(evaluation_transform(run.processor))
    return apply_transform(run.data.splits[split], transform, run.data.strict_images, split)


def readable_only(output: PredictionOutput) -> PredictionOutput:
    """Leaves out the rows in the place of unreadable images."""
    kept = has_label(torch.from_numpy(output.label_ids)).numpy()
    return output if kept.all() else PredictionOutput(output.predictions[kept], output.label_ids[kept], None)


def keep_thresholds(run: Run, validation: PredictionOutput) -> list[float]:
    """Chooses each label's threshold on the validation images, and adds them to the saved config."""
    thresholds = best_thresholds(validation)
    run.trainer.model.config.label_thresholds = thresholds
    if run.trainer.is_world_process_zero():
        add_to_config(run.trainer, label_thresholds=thresholds)
    return thresholds


def split_metrics(output: PredictionOutput, data: LabelledImages, thresholds: list[float] | None) -> dict[str, float]:
    """Metrics of a split's predictions; F1 of several labels at their thresholds."""
    problem = PROBLEMS[data.problem_type]
    if thresholds is None:
        return problem.metrics(output) | {"loss": problem.loss(output)}
    logits, labels = torch.from_numpy(output.predictions), torch.from_numpy(output.label_ids)
    measured = multi_label_report(logits, labels, dict(enumerate(data.label_names)), thresholds)
    return {name: value for name, value in measured.items() if name != "per_class"}


def first_test_images(run: Run, number: int) -> Tensor:
    """The first test images, `[images, channels, height, width]`, normalised."""
    rows = islice(evaluation_rows(run, "test"), number)
    return torch.stack([row["pixel_values"] for row in rows])


def figures(run: Run) -> dict[str, Callable[[], Figure]]:
    """Curves, predictions of the test images and, for the suite's models, attention."""
    problem_type, measured = run.data.problem_type, run.measured
    problem = PROBLEMS[problem_type]
    drawn = {
        "curves.png": partial(training_curves, run.trainer.state.log_history, problem.best, problem.loss_name),
        **prediction_figures(problem_type, measured.label_ids, measured.predictions, run.data.label_names),
    }
    if hasattr(run.trainer.model.config, "num_prefix_tokens"):
        drawn["attention.png"] = partial(attention_on_test_images, run)
    return drawn


def attention_on_test_images(run: Run) -> Figure:
    """The last layer's attention on a few test images."""
    model = run.trainer.model.eval()
    pixel_values = first_test_images(run, FIGURE_IMAGES).to(model.device)
    return classifier_attention_figure(model, pixel_values, run.processor)


def card(run: Run, report: dict, figures: Sequence[str]) -> ModelCard:
    """The classifier's model card."""
    trainer, model, method = run.trainer, run.arguments.model, run.arguments.method
    architecture = model.preset or type(trainer.model).__name__
    if model.config_overrides is not None:
        architecture += f" with {overrides_as_text(model.config_overrides)}"
    facts = ClassifierFacts(
        name=model_name(trainer),
        base=model.model,
        architecture=f"{architecture} ({report['parameters'] / 1e6:.2g} M parameters)",
        dataset=dataset_name(run.arguments.data.dataset),
        label_names=run.data.label_names,
        images=report["images"],
        metrics=report["metrics"],
        skipped=len(report["skipped_images"]),
        command=run.arguments.call,
        training=training_sentence(trainer, report, trainer.args.train_batch_size)
        + label_sentences(run.data.problem_type, method.class_weights, method.balanced_sampling),
        figures=figures,
    )
    return classifier_card(facts)


def summary(report: dict) -> str:
    """The test images' first metric in one line."""
    name, value = next(iter(report["metrics"]["test"].items()))
    return f"test {name} {value:.4f} on {report['images']['test']} images"


def reload_check(run: Run) -> ReloadCheck:
    """Logits of test images."""
    pixel_values = first_test_images(run, RELOADED_IMAGES)
    return ReloadCheck(AutoModelForImageClassification, lambda model: model(pixel_values.to(model.device)).logits)


FINETUNE = Recipe(
    name="finetune",
    description="Fine-tunes an image classifier and leaves a folder that AutoModel opens.",
    kinds=(ClassifierArguments, LabelledDataArguments, FinetuneMethodArguments, FinetuneTrainingArguments),
    job_defaults=job_defaults,
    load_data=load_labelled,
    build_model=lambda arguments, data: build_classifier(arguments, data.label_names, data.problem_type),
    training_split=lambda data: data.splits["train"],
    transform=augmentation,
    collate=lambda run: collate_images,
    trainer_class=ClassificationTrainer,
    trainer_options=trainer_options,
    callbacks=callbacks,
    report=report,
    figures=figures,
    card=card,
    reload_check=reload_check,
    summary=summary,
    last_written=lambda method: EMA_FILE if method.ema_decay else TRAINER_STATE,
)
