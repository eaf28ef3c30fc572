"""Writes the results tables of README.md and docs/ from the metrics.json files in configs/results/.

Each experiment of this folder has a folder of that name there: `metrics.json` as the run left it, and one file for
each evaluation of the trained model. `python configs/tables.py` rewrites every table between
`<!-- results: NAME -->` and `<!-- end -->`; `--check` only tells whether one would change.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TABLE = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def read(experiment: str, name: str = "metrics") -> dict:
    """A file of an experiment."""
    return json.loads((RESULTS / experiment / f"{name}.json").read_text())


def metrics(experiment: str, name: str) -> dict:
    """The metrics of an evaluation."""
    return read(experiment, name)["metrics"]


def best_knn(experiment: str, name: str) -> tuple[float, str]:
    """The best k-NN accuracy and its k."""
    found = metrics(experiment, name)
    k = max(found, key=lambda number: found[number]["accuracy"])
    return found[k]["accuracy"], k


def table(header: str, *rows: tuple, text_columns: int = 1) -> str:
    """A Markdown table; all but the first columns hold numbers, three digits after the point."""
    columns = header.count("|") - 1
    lines = [header, "| " + " | ".join("---" if i < text_columns else "---:" for i in range(columns)) + " |"]
    for row in rows:
        cells = (f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row)
        lines.append("| " + " | ".join(cells) + " |")
    return re.sub(r"\|  (?=\|)", "| ", "\n".join(lines)) + "\n"


def digits() -> str:
    """Fine-tuning on digits."""
    run = read("finetune_digits")
    test = run["metrics"]["test"]
    return table(
        "| test accuracy | macro F1 | test images | seconds of training |",
        (test["accuracy"], test["f1_macro"], run["images"]["test"], round(run["seconds_of_training"])),
        text_columns=0,
    )


def mae_fashion_mnist() -> str:
    """Features of the masked autoencoder."""
    name = "mae_fashion_mnist"
    pairs = [
        (f"`evaluate {label}`", metrics(name, file)["accuracy"], metrics(name, f"{file}-random")["accuracy"])
        for label, file in (("linear` `--label_fraction 0.01", "linear-0.01"), ("linear", "linear"))
    ]
    k = best_knn(name, "knn")[1]
    both = [metrics(name, file)[k]["accuracy"] for file in ("knn", "knn-random")]
    header = "| accuracy on the 10,000 test images, `--pooling mean` | pretrained | `--random_weights` |"
    return table(header, *pairs, (f"`evaluate knn`, k = {k}", *both))


def dino_fashion_mnist() -> str:
    """Features of DINO."""
    (found, k), (untrained, other) = (best_knn("dino_fashion_mnist", name) for name in ("knn", "knn-random"))
    header = "| accuracy on the 10,000 test images | pretrained | `--random_weights` |"
    return table(header, (f"`evaluate knn`, best k: {k} and {other}", found, untrained))


def clip_fashion_mnist() -> str:
    """Zero-shot classification."""
    found = metrics("clip_fashion_mnist", "zero-shot")
    return table(
        "| zero-shot accuracy on the 10,000 unseen test images | top-1 | top-5 |",
        ("names of the classes", found["accuracy"], found["top5_accuracy"]),
    )


def clip_emoji() -> str:
    """Retrieval among the training pairs."""
    found = read("clip_emoji", "retrieval")
    names = {"image_to_text": "name of an image", "text_to_image": "image of a name"}
    rows = [(label, *(found["metrics"][way][f"recall@{rank}"] for rank in (1, 5, 10))) for way, label in names.items()]
    return table(f"| among all {found['images']:,}, on which it was trained | R@1 | R@5 | R@10 |", *rows)


def faithfulness() -> str:
    """Deletion and insertion of explanations."""
    found = metrics("finetune_digits", "faithfulness")
    titles = {
        "relevance": "relevance",
        "gradient": "attention x gradient",
        "rollout": "rollout",
        "attention": "last attention",
        "random": "random",
    }
    rows = [
        (label, *(found[method][name] for method in titles))
        for name, label in (
            ("deletion", "deletion (lower is better)"),
            ("insertion", "insertion (higher is better)"),
        )
    ]
    return table(f"| area under the curve | {' | '.join(titles.values())} |", *rows)


def pretraining() -> str:
    """One row for each measurement, for the README."""
    mae, dino, clip, emoji = "mae_fashion_mnist", "dino_fashion_mnist", "clip_fashion_mnist", "clip_emoji"

    def about(experiment: str, title: str, data: str) -> tuple:
        run = read(experiment)
        parameters = run["encoder_parameters"] / 1e6
        return (
            f"[{title}](docs/pretrain-{title.lower()}.md), {parameters:.3g} M parameters",
            f"{data}, {run['epochs']:.3g} epochs",
            f"{run['seconds_of_training']:.0f} s",
        )

    (knn, k), (untrained, _) = best_knn(mae, "knn"), best_knn(mae, "knn-random")
    (dino_knn, dino_k), (dino_untrained, _) = best_knn(dino, "knn"), best_knn(dino, "knn-random")
    few, few_random = (metrics(mae, name)["accuracy"] for name in ("linear-0.01", "linear-0.01-random"))
    every, every_random = (metrics(mae, name)["accuracy"] for name in ("linear", "linear-random"))
    zero_shot, recalls = metrics(clip, "zero-shot"), metrics(emoji, "retrieval")
    same = ("", "", "")
    return table(
        "| method | trained on | time | measured by | result | untrained |",
        (*about(mae, "MAE", "Fashion-MNIST"), "linear, 540 labels", few, few_random),
        (*same, "linear, 54,000 labels", every, every_random),
        (*same, f"k-NN, k = {k}", knn, untrained),
        (*about(dino, "DINO", "Fashion-MNIST"), f"k-NN, k = {dino_k}", dino_knn, dino_untrained),
        (*about(clip, "CLIP", "Fashion-MNIST"), "zero-shot, top-1", zero_shot["accuracy"], ""),
        (*about(emoji, "CLIP", "1,400 emoji"), "R@1, name of an image", recalls["image_to_text"]["recall@1"], ""),
        text_columns=4,
    )


TABLES: dict[str, Callable[[], str]] = {
    function.__name__: function
    for function in (
        pretraining,
        digits,
        mae_fashion_mnist,
        dino_fashion_mnist,
        clip_fashion_mnist,
        clip_emoji,
        faithfulness,
    )
}


def generated(text: str) -> str:
    """A page with its tables made anew."""
    return TABLE.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}{match[3]}", text)


def main() -> int:
    """Rewrites the pages, or with --check returns 1 if one would change."""
    stale = [page for page in PAGES if generated(page.read_text()) != page.read_text()]
    for page in stale:
        print(f"{'is stale' if '--check' in sys.argv else 'wrote'}: {page.relative_to(ROOT)}")
        if "--check" not in sys.argv:
            page.write_text(generated(page.read_text()))
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
