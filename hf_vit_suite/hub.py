"""Model cards for the Hub, in which names and commands show literally."""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .names import is_hidden, visible

HOW_IT_WAS_MADE = """The folder carries its model code; where `hf_vit_suite` is installed, `import hf_vit_suite` does
in place of `trust_remote_code=True`.

## Training

{command}

{training}
"""

CLASSIFIER_CARD = """---
{metadata}
---

# {name}

{description}

| split | images | {metric_names} |
| --- | ---: | {metric_rules} |
{metric_rows}

{skipped}{figures}

## Use

```python
from transformers import pipeline

classifier = pipeline("image-classification", model={quoted_name}, trust_remote_code=True)
print(classifier("photo.jpg"))
```

"""


PRETRAINED_CARD = """---
{metadata}
---

# {name}

{description}

{skipped}{figures}

## Use

{usage}

"""


@dataclass(frozen=True)
class Pretrained:
    """Parts of a pretrained model's card that depend on its kind.

    Args:
        pipeline_tag: The Hub's name of its task.
        tag: Tag on the Hub.
        how: How it was trained, a phrase.
        usage: Code and commands, in which the model's name is `{quoted_name}` and `{shell_name}`.
    """

    pipeline_tag: str
    tag: str
    how: str
    usage: str


ENCODER = Pretrained(
    pipeline_tag="image-feature-extraction",
    tag="self-supervised",
    how="pretrained without labels",
    usage="""```python
from transformers import AutoModel

encoder = AutoModel.from_pretrained({quoted_name}, trust_remote_code=True)
features = encoder(pixel_values).pooler_output
```

```
hf-vit-suite finetune --model {shell_name} --dataset DATA
hf-vit-suite evaluate linear {shell_name} --dataset DATA
```""",
)

TWO_TOWERS = Pretrained(
    pipeline_tag="zero-shot-image-classification",
    tag="clip",
    how="trained to match images and captions",
    usage="""```python
from transformers import pipeline

classify = pipeline("zero-shot-image-classification", model={quoted_name}, trust_remote_code=True)
print(classify("photo.jpg", candidate_labels=["a cat", "a dog"]))
```

```
hf-vit-suite predict {shell_name} photo.jpg --labels "a cat,a dog"
hf-vit-suite evaluate zero-shot {shell_name} --dataset DATA
hf-vit-suite explain {shell_name} photo.jpg --text "a cat" --out match.png
```""",
)


FIGURE_TITLES = {
    "attention.png": "Attention of the last layer",
    "confusion_matrix.png": "Confusion matrix of the test images",
    "precision_recall.png": "Precision and recall of the test images",
    "values.png": "Predicted and true values of the test images",
    "curves.png": "Loss and what else was measured in training",
    "reconstruction.png": "Images, their visible patches and reconstructions",
}


def forms_of_name(name: str) -> dict[str, str]:
    """A model's name in prose, in Python and in a command."""
    return {
        "name": plain(name),
        "quoted_name": visible(json.dumps(name, ensure_ascii=False)),
        "shell_name": shell_word(name),
    }


def shell_word(text: str) -> str:
    """A word of a command on one line, control characters as bash's `$'...'` writes them."""
    if not any(map(is_hidden, text)):
        return shlex.quote(text)
    return "$'" + visible(text.replace("\\", r"\\").replace("'", r"\'")) + "'"


def embedded(figures: Sequence[str]) -> str:
    """Figures by their file names, as Markdown shows them."""
    return "\n\n".join(f"![{FIGURE_TITLES[name]}]({name})" for name in figures)


@dataclass(frozen=True)
class ClassifierFacts:
    """Content of a classifier's card; every figure is measured.

    Args:
        name: Name of the model, the folder's or the Hub's.
        base: Checkpoint that it started from; `None` for random weights.
        architecture: Class and size in words.
        dataset: Name of the data.
        label_names: Labels in order.
        images: Number of images by split.
        metrics: Metrics by split, each a name to value from 0 to 1 (or a loss).
        skipped: Number of unreadable images left out.
        command: Command line or call from Python that made it.
        training: Sentences on the run: epochs, time, device.
        figures: File names of figures in the folder.
    """

    name: str
    base: str | None
    architecture: str
    dataset: str
    label_names: list[str]
    images: dict[str, int]
    metrics: dict[str, dict[str, float]]
    skipped: int
    command: str
    training: str
    figures: Sequence[str]


def classifier_card(facts: ClassifierFacts) -> ModelCard:
    """A model card with metadata that the Hub reads and a table of the measured figures."""
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["image-classification", "vision", "hf-vit-suite"],
        # The Hub refuses cards whose base model is a folder on somebody's disk.
        base_model=None if facts.base is None or Path(facts.base).is_dir() else facts.base,
        model_name=visible(facts.name),
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=visible(facts.dataset),
                dataset_name=visible(facts.dataset),
                dataset_split="test",
                metric_type=name,
                metric_value=value,
            )
            for name, value in facts.metrics["test"].items()
        ],
    )
    names = list(facts.metrics["test"])
    rows = [
        f"| {split} | {facts.images[split]} | " + " | ".join(f"{metrics[name]:.4f}" for name in names) + " |"
        for split, metrics in facts.metrics.items()
    ]
    shown = ", ".join(facts.label_names[:20]) + (", ..." if len(facts.label_names) > 20 else "")
    labels = f"{len(facts.label_names)} labels ({plain(shown)})"
    started = f"fine-tuned from {code(facts.base)}" if facts.base else "trained from random weights"
    return ModelCard(
        (CLASSIFIER_CARD + HOW_IT_WAS_MADE).format(
            metadata=metadata.to_yaml(),
            **forms_of_name(facts.name),
            description=f"{plain(facts.architecture)}, {started} on {code(facts.dataset)}: {labels}.",
            metric_names=" | ".join(names),
            metric_rules=" | ".join("---:" for _ in names),
            metric_rows="\n".join(rows),
            skipped=f"{facts.skipped} unreadable images were left out.\n\n" if facts.skipped else "",
            figures=embedded(facts.figures),
            command=code_block(facts.command),
            training=facts.training,
        )
    )


@dataclass(frozen=True)
class PretrainedFacts:
    """Content of a pretrained model's card; every figure is measured.

    Args:
        name: Name of the model, the folder's or the Hub's.
        architecture: Class and size in words.
        dataset: Name of the data.
        images: Number of training images; `None` for streams.
        skipped: Number of unreadable images left out.
        metrics: The last measured values by name: `loss`, and what else the method logs.
        figures: File names of figures in the folder.
        command: Command line or call from Python that made it.
        training: Sentences on the run: epochs, time, device.
        kind: What the model is for.
    """

    name: str
    architecture: str
    dataset: str
    images: int | None
    skipped: int
    metrics: dict[str, float]
    figures: Sequence[str]
    command: str
    training: str
    kind: Pretrained = ENCODER


def pretrained_card(facts: PretrainedFacts) -> ModelCard:
    """A model card with metadata that the Hub reads."""
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag=facts.kind.pipeline_tag,
        tags=[facts.kind.pipeline_tag, facts.kind.tag, "vision", "hf-vit-suite"],
        model_name=visible(facts.name),
    )
    images = "" if facts.images is None else f" ({facts.images} images)"
    measured = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in facts.metrics.items())
    return ModelCard(
        (PRETRAINED_CARD + HOW_IT_WAS_MADE).format(
            metadata=metadata.to_yaml(),
            **forms_of_name(facts.name),
            description=f"{plain(facts.architecture)}, {facts.kind.how} on {code(facts.dataset)}{images}. "
            f"Measured last: {measured}.",
            skipped=f"{facts.skipped} unreadable images were left out.\n\n" if facts.skipped else "",
            usage=facts.kind.usage.format(**forms_of_name(facts.name)),
            figures=embedded(facts.figures),
            command=code_block(facts.command),
            training=facts.training,
        )
    )


def plain(text: str) -> str:
    """Escaped text on one line, which also fits a cell of a table."""
    return re.sub(r"([\\`*_{}\[\]<>&#|~$^:])", r"\\\1", visible(" ".join(text.split())))


def code(text: str) -> str:
    """An inline code span."""
    fence = fence_around(text, at_least=1)
    padding = " " if len(fence) > 1 else ""
    return f"{fence}{padding}{visible(' '.join(text.split()))}{padding}{fence}"


def code_block(text: str, language: str = "") -> str:
    """A fenced code block, which keeps line breaks."""
    fence = fence_around(text, at_least=3)
    return "\n".join((f"{fence}{language}", visible(text, keep="\n"), fence))


def fence_around(text: str, at_least: int) -> str:
    """A fence of more backticks than the longest run of them in a text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(at_least, longest + 1)
