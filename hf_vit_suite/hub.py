"""Model cards for the Hub."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

HOW_IT_WAS_MADE = """The folder carries its model code; where `hf_vit_suite` is installed, `import hf_vit_suite` does
in place of `trust_remote_code=True`.

## Training

```
{command}
```

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

{skipped}![Loss and accuracy by epoch](curves.png)

![Confusion matrix of the test images](confusion_matrix.png)

## Use

```python
from transformers import pipeline

classifier = pipeline("image-classification", model="{name}", trust_remote_code=True)
print(classifier("picture.jpg"))
```

"""


PRETRAINED_CARD = """---
{metadata}
---

# {name}

{description}

{skipped}{pictures}

## Use

{usage}

"""


@dataclass(frozen=True)
class Pretrained:
    """What a pretrained model's card tells by its kind.

    Args:
        pipeline_tag: The Hub's name of its task.
        tag: What sets it apart on the Hub.
        how: How it was trained, in words.
        usage: Code and commands, in which `{name}` is the model's name.
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

encoder = AutoModel.from_pretrained("{name}", trust_remote_code=True)
features = encoder(pixel_values).pooler_output
```

```
hf-vit-suite finetune --model {name} --dataset DATA
hf-vit-suite evaluate linear {name} --dataset DATA
```""",
)

TWO_TOWERS = Pretrained(
    pipeline_tag="zero-shot-image-classification",
    tag="clip",
    how="trained to tell which captions belong to which images",
    usage="""```python
from transformers import pipeline

classify = pipeline("zero-shot-image-classification", model="{name}", trust_remote_code=True)
print(classify("picture.jpg", candidate_labels=["a cat", "a dog"]))
```

```
hf-vit-suite predict {name} picture.jpg --labels "a cat,a dog"
hf-vit-suite evaluate zero-shot {name} --dataset DATA
hf-vit-suite explain {name} picture.jpg --text "a cat" --out match.png
```""",
)


@dataclass(frozen=True)
class ClassifierFacts:
    """What a classifier's card tells; every figure is measured.

    Args:
        name: Name of the model, the folder's or the Hub's.
        base: What it started from, e.g. a checkpoint's name; `None` is random weights.
        architecture: Class and size in words.
        dataset: Name of the data.
        label_names: Labels in order.
        images: Number of images by split.
        metrics: Metrics by split, each a name to value from 0 to 1 (or a loss).
        skipped: Number of unreadable images left out.
        command: Command line that made it.
        training: Sentences on the run: epochs, time, device.
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


def classifier_card(facts: ClassifierFacts) -> ModelCard:
    """A model card with metadata that the Hub reads and a table of the measured figures."""
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["image-classification", "vision", "hf-vit-suite"],
        # The Hub refuses cards whose base model is a folder on somebody's disk.
        base_model=None if facts.base is None or Path(facts.base).is_dir() else facts.base,
        model_name=facts.name,
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=facts.dataset,
                dataset_name=facts.dataset,
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
    labels = f"{len(facts.label_names)} labels ({shown})"
    started = f"fine-tuned from `{facts.base}`" if facts.base else "trained from random weights"
    return ModelCard(
        (CLASSIFIER_CARD + HOW_IT_WAS_MADE).format(
            metadata=metadata.to_yaml(),
            name=facts.name,
            description=f"{facts.architecture}, {started} on `{facts.dataset}`: {labels}.",
            metric_names=" | ".join(names),
            metric_rules=" | ".join("---:" for _ in names),
            metric_rows="\n".join(rows),
            skipped=f"{facts.skipped} unreadable images were left out.\n\n" if facts.skipped else "",
            command=facts.command,
            training=facts.training,
        )
    )


@dataclass(frozen=True)
class PretrainedFacts:
    """What the card of a model pretrained without labels tells; every figure is measured.

    Args:
        name: Name of the model, the folder's or the Hub's.
        architecture: Class and size in words.
        dataset: Name of the data.
        images: Number of training images; `None` for streams.
        skipped: Number of unreadable images left out.
        metrics: The last that were measured, by name: `loss`, and what else the method logs.
        pictures: File names of pictures in the folder.
        command: Command line that made it.
        training: Sentences on the run: epochs, time, device.
        kind: What the model is for.
    """

    name: str
    architecture: str
    dataset: str
    images: int | None
    skipped: int
    metrics: dict[str, float]
    pictures: list[str]
    command: str
    training: str
    kind: Pretrained = ENCODER


def pretrained_card(facts: PretrainedFacts) -> ModelCard:
    """A model card with metadata that the Hub reads."""
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag=facts.kind.pipeline_tag,
        tags=[facts.kind.pipeline_tag, facts.kind.tag, "vision", "hf-vit-suite"],
        model_name=facts.name,
    )
    images = "" if facts.images is None else f" ({facts.images} images)"
    measured = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in facts.metrics.items())
    return ModelCard(
        (PRETRAINED_CARD + HOW_IT_WAS_MADE).format(
            metadata=metadata.to_yaml(),
            name=facts.name,
            description=f"{facts.architecture}, {facts.kind.how} on `{facts.dataset}`{images}. "
            f"Measured last: {measured}.",
            skipped=f"{facts.skipped} unreadable images were left out.\n\n" if facts.skipped else "",
            usage=facts.kind.usage.format(name=facts.name),
            pictures="\n\n".join(f"![{name}]({name})" for name in ["curves.png", *facts.pictures]),
            command=facts.command,
            training=facts.training,
        )
    )
