"""Options of the evaluations: flags of `hf-vit-suite evaluate`, keywords of `hf_vit_suite.evaluate`."""

from dataclasses import dataclass, field
from typing import Literal

from ..data import SourceArguments
from ..inference import DEFAULT_TEMPLATE


@dataclass(kw_only=True)
class EvaluationArguments(SourceArguments):
    """Options of every evaluation."""

    dataset: str
    batch_size: int = field(default=64, metadata={"help": "images per forward pass"})
    bf16: bool = field(default=False, metadata={"help": "compute in bfloat16"})
    output_dir: str | None = field(
        default=None, metadata={"help": "folder of the results; default outputs/evaluate-METHOD"}
    )

    def __post_init__(self):
        for name in ("batch_size", "images", "steps"):
            if getattr(self, name, 1) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(kw_only=True)
class LabelledArguments(EvaluationArguments):
    """Options of evaluations on labelled images."""

    dataset: str = field(default="digits", metadata={"help": "images with labels, as for finetune"})
    label_column: str | None = field(
        default=None, metadata={"help": "column of the labels, or several with commas between; default found by type"}
    )
    validation_fraction: float = field(default=0.1, metadata={"help": "fraction split off if there is no split"})
    test_fraction: float = field(default=0.1, metadata={"help": "fraction split off if there is no split"})
    seed: int = field(
        default=42,
        metadata={
            "help": "seed of missing splits and random weights; finetune's default, so its test images stay unseen"
        },
    )


@dataclass(kw_only=True)
class FeatureArguments(LabelledArguments):
    """Options of evaluations of frozen features."""

    pooling: Literal["default", "cls", "mean"] = field(
        default="default", metadata={"help": "default: what the model pools itself, else its class token; cls; mean"}
    )
    random_weights: bool = field(default=False, metadata={"help": "measure the architecture untrained"})
    label_fraction: float = field(
        default=1.0,
        metadata={"help": "fraction of each class's training images that is used; 0.01 is the usual low-label test"},
    )


@dataclass(kw_only=True)
class SplitArguments(LabelledArguments):
    """Options of evaluations of one split."""

    split: Literal["test", "validation", "train", "all"] = field(
        default="test", metadata={"help": "test, validation, train or all"}
    )


@dataclass(kw_only=True)
class ZeroShotArguments(SplitArguments):
    """Options of zero-shot classification."""

    labels: str | None = field(
        default=None,
        metadata={"help": "label names in the order of their numbers, with commas between; default the data's own"},
    )
    templates: list[str] = field(
        default_factory=lambda: [DEFAULT_TEMPLATE],
        metadata={
            "help": "prompts in which {} is the label's name, whose features are averaged, or imagenet for the 80 of "
            "the CLIP paper"
        },
    )


@dataclass(kw_only=True)
class FaithfulnessArguments(SplitArguments):
    """Options of the evaluation of explanations."""

    images: int = field(default=200, metadata={"help": "images of the split that are used"})
    steps: int = field(default=16, metadata={"help": "steps in which the patches are removed"})


@dataclass(kw_only=True)
class RetrievalArguments(EvaluationArguments):
    """Options of retrieval."""

    dataset: str = field(metadata={"help": "images with captions, as for pretrain clip"})
    text_column: str | None = field(
        default=None, metadata={"help": "column of the captions; default found by its name"}
    )
    split: Literal["test", "validation", "train"] = field(
        default="test", metadata={"help": "test, validation or train"}
    )
