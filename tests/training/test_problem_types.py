"""Fine-tuning on several labels an image, on values, and on classes of different sizes: whole runs."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from huggingface_hub import ModelCard
from PIL import Image
from recipes import QUICK, VIT, overrides
from references_of_training import assert_moved_alike, assert_one_line_error, report, weights
from torch.utils.data import DataLoader
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification, pipeline

import hf_vit_suite
from hf_vit_suite.data import AugmentedImages, ImageTransform, LabelledImages
from hf_vit_suite.training.balance import BalancedSampler, class_weights, row_weights

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220)}
TINY = {"preset": "vit_tiny_patch16_224", "config_overrides": overrides(**VIT), **QUICK}
MULTI = "multi_label_classification"


def halves(left: str | None, right: str | None, number: int) -> Image.Image:
    """A noisy picture with a colour in each half, black without."""
    pixels = np.random.default_rng(number).integers(0, 30, (16, 16, 3), np.uint8)
    for place, name in ((slice(0, 8), left), (slice(8, 16), right)):
        if name is not None:
            pixels[:, place] += np.array(COLOURS[name], np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with none, one or two of three colours, and their names, as parquet."""
    names = [None, *COLOURS]
    pairs = [(names[number % 4], names[number // 4 % 4]) for number in range(96)]
    rows = {
        "image": [halves(left, right, number) for number, (left, right) in enumerate(pairs)],
        "labels": [sorted({name for name in pair if name}) for pair in pairs],
        "amount": [float(sum(name is not None for name in pair)) + 0.5 for pair in pairs],
    }
    features = Features({"image": ImageFeature(), "labels": List(Value("string")), "amount": Value("float32")})
    path = tmp_path_factory.mktemp("several") / "train.parquet"
    Dataset.from_dict(rows, features=features).to_parquet(str(path))
    return path


@pytest.fixture(scope="module")
def multi(several: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of several labels, trained with mixup and cutmix."""
    out = tmp_path_factory.mktemp("multi") / "out"
    hf_vit_suite.finetune(
        dataset=str(several), output_dir=str(out), num_train_epochs=40, learning_rate=3e-3, mixup=0.2, cutmix=0.2,
        class_weights="balanced", balanced_sampling=True, random_resized_crop=False, **TINY,
    )  # fmt: skip
    return out


def test_several_labels_are_learnt_measured_and_kept_with_thresholds(multi: Path, several: Path):
    found = report(multi)
    assert found["problem_type"] == MULTI
    assert found["metrics"]["test"]["mAP"] > 0.8
    assert set(found["metrics"]["test"]) == {"mAP", "f1_macro", "f1_micro", "loss"}
    model = AutoModelForImageClassification.from_pretrained(multi)
    assert model.config.problem_type == MULTI
    assert model.config.label_thresholds == pytest.approx(list(found["thresholds"].values()))
    assert model.config.id2label == {0: "blue", 1: "green", 2: "red"}
    card = ModelCard.load(multi / "README.md")
    assert card.data.pipeline_tag == "image-classification"
    for text in (
        MULTI,
        "Weights of the classes in the loss: balanced",
        "classes come equally often",
        "precision_recall",
    ):
        assert text in card.text.replace("\\_", "_")
    assert (multi / "precision_recall.png").is_file()
    log = json.loads(next(multi.glob("checkpoint-*/trainer_state.json")).read_text())
    assert log["best_metric"] == max(entry["eval_mAP"] for entry in log["log_history"] if "eval_mAP" in entry)


def test_predict_gives_the_pipelines_sigmoids_and_the_labels_above_their_thresholds(
    multi: Path, tmp_path: Path, run_command
):
    halves("red", "blue", 1000).save(tmp_path / "x.png")
    (predicted,) = hf_vit_suite.predict(str(multi), str(tmp_path / "x.png"))
    theirs = {
        row["label"]: row["score"] for row in pipeline("image-classification", str(multi))(str(tmp_path / "x.png"))
    }
    thresholds = report(multi)["thresholds"]
    for entry in predicted["labels"]:
        assert entry["probability"] == pytest.approx(theirs[entry["label"]], rel=1e-5)
        assert entry["predicted"] == (entry["probability"] >= thresholds[entry["label"]])
    printed = run_command("predict", str(multi), str(tmp_path / "x.png")).stdout
    assert printed.count("yes") == sum(entry["predicted"] for entry in predicted["labels"])


def test_evaluation_measures_what_training_did_and_other_methods_refuse(
    multi: Path, several: Path, tmp_path: Path, run_command
):
    result = hf_vit_suite.evaluate("classification", str(multi), dataset=str(several), output_dir=str(tmp_path / "e"))
    trained = report(multi)["metrics"]["test"]
    assert {name: result.metrics[name] for name in trained} == pytest.approx(trained, rel=1e-4)
    assert (tmp_path / "e" / "precision_recall.png").is_file()
    per_class = result.metrics["per_class"]["red"]
    assert per_class["threshold"] == report(multi)["thresholds"]["red"]
    for method in ("knn", "linear"):
        failed = run_command("evaluate", method, str(multi), "--dataset", str(several), check=False)
        assert_one_line_error(failed, f"has a {MULTI}, and this needs one label an image")


def test_values_are_regressed_predicted_and_measured(several: Path, tmp_path: Path, run_command):
    out = tmp_path / "out"
    result = hf_vit_suite.finetune(
        dataset=str(several), label_column="amount", problem_type="regression", output_dir=str(out),
        num_train_epochs=30, learning_rate=3e-3, random_resized_crop=False, **TINY,
    )  # fmt: skip
    assert set(result.metrics["test"]) == {"mae", "rmse", "r2", "loss"}
    assert result.metrics["test"]["mae"] < 0.35
    log = json.loads(next(out.glob("checkpoint-*/trainer_state.json")).read_text())
    assert log["best_metric"] == min(entry["eval_mae"] for entry in log["log_history"] if "eval_mae" in entry)
    assert (out / "values.png").is_file()
    halves("red", "blue", 1000).save(tmp_path / "x.png")
    (predicted,) = hf_vit_suite.predict(str(out), str(tmp_path / "x.png"))
    (theirs,) = pipeline("image-classification", str(out))(str(tmp_path / "x.png"))
    assert predicted["labels"] == [
        {"label": "value", "probability": None, "value": pytest.approx(theirs["score"], 1e-5)}
    ]
    measured = hf_vit_suite.evaluate(
        "classification", str(out), dataset=str(several), label_column="amount", output_dir=str(tmp_path / "e")
    )
    assert measured.metrics["mae"] == pytest.approx(result.metrics["test"]["mae"], rel=1e-4)
    for option, value in (("--mixup", "0.2"), ("--balanced_sampling", "True"), ("--label_smoothing_factor", "0.1")):
        command = [
            "finetune",
            "--dataset",
            several,
            "--label_column",
            "amount",
            "--problem_type",
            "regression",
            option,
        ]
        options = [word for name, item in TINY.items() for word in (f"--{name}", item)]
        command += [value, *options, "--output_dir", tmp_path / "refused"]
        failed = run_command(*map(str, command), check=False)
        assert_one_line_error(failed, option)


def uneven(folder: Path, counts: dict[str, int]) -> Path:
    """Class folders of different sizes."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            halves(name, name, number).save(folder / name / f"{number}.png")
    return folder


def labelled(labels: list, names: list[str], problem_type: str = "single_label_classification") -> LabelledImages:
    """Rows with these labels and no image."""
    return LabelledImages({"train": Dataset.from_dict({"label": labels})}, names, [], "x", problem_type)


def test_balanced_weights_are_scikit_learns_and_weigh_presence_of_several_labels():
    from sklearn.utils.class_weight import compute_class_weight

    labels = [0] * 30 + [1] * 6 + [2] * 3
    expected = compute_class_weight("balanced", classes=np.arange(3), y=np.array(labels))
    assert class_weights("balanced", labelled(labels, list("abc"))).tolist() == pytest.approx(expected)
    with_unused = class_weights("balanced", labelled(labels, list("abcd")))
    assert with_unused.tolist() == pytest.approx([*expected, 1.0])
    hot = [[1.0, 0.0]] * 6 + [[1.0, 1.0]] * 2
    assert class_weights("balanced", labelled(hot, list("ab"), MULTI)).tolist() == pytest.approx([1.0, 3.0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1.0", "has no weight for b, one of 1 labels"),
        ("{a: 1, b: 2, c: 3}", "names c, which is no label of the data"),
        ("{a: 1, b: -1}", "the weight of b must be a number above 0, got -1"),
        ("{a: 1, b: yes}", "the weight of b must be a number above 0, got True"),
        ("[1, 2]", "expected a mapping of label to weight"),
        ("{a: [", "can't be read"),
    ],
)
def test_file_of_weights_that_does_not_suit_is_told(tmp_path: Path, content: str, message: str):
    (tmp_path / "weights.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        class_weights(str(tmp_path / "weights.yaml"), labelled([0, 1], ["a", "b"]))


def test_file_of_weights_changes_the_loss_of_training_alone(tmp_path: Path):
    photos = uneven(tmp_path / "photos", {"red": 20, "green": 8, "blue": 8})
    (tmp_path / "w.json").write_text(json.dumps({"red": 5.0, "green": 1.0, "blue": 0.1}))
    losses = {}
    for name, options in {"plain": {}, "weighted": {"class_weights": str(tmp_path / "w.json")}}.items():
        out = tmp_path / name
        hf_vit_suite.finetune(dataset=str(photos), output_dir=str(out), max_steps=1, save_strategy="no",
                              eval_on_start=True, learning_rate=0.0, **(TINY | options))  # fmt: skip
        log = report(out)
        losses[name] = log["metrics"]["test"]["loss"]
        assert torch.equal(weights(out)["classifier.bias"], torch.zeros(3))
    assert losses["plain"] == pytest.approx(losses["weighted"], rel=1e-5)


def test_weighted_loss_is_torchs(several: Path, tmp_path: Path):
    from hf_vit_suite.data import ImageMixer
    from hf_vit_suite.training.finetune import (
        ClassificationTrainer,
        FinetuneMethodArguments,
        FinetuneTrainingArguments,
    )

    config = ViTConfig(image_size=16, patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    config.num_labels = 3
    model = ViTForImageClassification(config)
    pixels, weight = torch.randn(4, 3, 16, 16), torch.tensor([0.5, 2.0, 4.0])
    arguments = FinetuneTrainingArguments(output_dir=str(tmp_path), eval_strategy="no", use_cpu=True)
    for problem_type, labels, expected in (
        ("single_label_classification", torch.tensor([0, 1, 2, 1]), torch.nn.CrossEntropyLoss(weight)),
        (
            MULTI,
            torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 1], [1, 1, 1]]),
            torch.nn.BCEWithLogitsLoss(pos_weight=weight),
        ),
        ("regression", torch.randn(4, 3), torch.nn.MSELoss()),
    ):
        trainer = ClassificationTrainer(
            FinetuneMethodArguments(), ImageMixer(3), problem_type,
            label_weights=None if problem_type == "regression" else weight, model=model, args=arguments,
        )  # fmt: skip
        torch.manual_seed(0)
        loss = trainer.compute_loss(model.train(), {"pixel_values": pixels, "labels": labels})
        torch.manual_seed(0)
        assert torch.allclose(loss, expected(model(pixels).logits, labels), rtol=1e-5)
        theirs = model.eval()
        theirs.config.problem_type = problem_type
        unweighted = trainer.compute_loss(theirs, {"pixel_values": pixels, "labels": labels})
        assert torch.allclose(unweighted, theirs(pixels, labels=labels).loss, rtol=1e-5)


def test_balanced_sampling_draws_each_class_equally_often_anew_each_epoch():
    labels = [0] * 900 + [1] * 90 + [2] * 10
    data = labelled(labels, list("abc"))
    rows = AugmentedImages(data.splits["train"], ImageTransform(None), seed=3)
    sampler = BalancedSampler(rows, row_weights(data))
    state = torch.get_rng_state()
    first = list(sampler)
    assert first == list(sampler)
    assert torch.equal(state, torch.get_rng_state())
    counts = Counter(labels[row] for row in first)
    assert all(abs(count - 1000 / 3) < 5 * (1000 * 2 / 9) ** 0.5 for count in counts.values())
    rows.set_epoch(1)
    assert list(sampler) != first
    assert len(list(DataLoader(range(1000), sampler=sampler, batch_size=100))) == 10


def test_rows_with_several_labels_are_drawn_for_their_rarest():
    hot = [[1.0, 0.0]] * 8 + [[1.0, 1.0]] * 2 + [[0.0, 0.0]] * 4
    assert row_weights(labelled(hot, list("ab"), MULTI)).tolist() == pytest.approx([0.1] * 8 + [0.5] * 2 + [0.25] * 4)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_resumed_balanced_run_ends_with_the_weights_of_an_unbroken_one(tmp_path: Path, accumulated: int):
    photos = uneven(tmp_path / "photos", {"red": 30, "green": 8, "blue": 8})
    options = {
        "dataset": str(photos), "balanced_sampling": True, "class_weights": "balanced", "learning_rate": 1e-2,
        "save_strategy": "steps", "save_steps": 3, "eval_strategy": "no", "max_steps": 6,
        "gradient_accumulation_steps": accumulated, "dataloader_num_workers": 2, **TINY,
    }  # fmt: skip
    hf_vit_suite.finetune(output_dir=str(tmp_path / "whole"), **options)
    hf_vit_suite.finetune(
        output_dir=str(tmp_path / "parts"), **(options | {"max_steps": 3, "lr_scheduler_type": "constant"})
    )
    start = weights(tmp_path / "whole" / "checkpoint-3")
    for path in (tmp_path / "whole" / "checkpoint-3").iterdir():
        target = tmp_path / "parts" / "checkpoint-3" / path.name
        target.write_bytes(path.read_bytes())
    for path in (tmp_path / "parts").glob("*.*"):
        if path.is_file():
            path.unlink()
    hf_vit_suite.finetune(output_dir=str(tmp_path / "parts"), resume_from_checkpoint="last", **options)
    assert_moved_alike(weights(tmp_path / "parts"), weights(tmp_path / "whole"), start=start)


def test_balance_of_a_stream_is_refused(tmp_path: Path, run_command):
    photos = uneven(tmp_path / "photos", {"red": 20, "green": 8})
    for option in (("--balanced_sampling", "True"), ("--class_weights", "balanced")):
        options = [word for name, item in TINY.items() for word in (f"--{name}", str(item))]
        command = ["finetune", "--dataset", str(photos), "--output_dir", str(tmp_path / "o"), "--streaming"]
        failed = run_command(*command, "--max_steps", "2", *option, *options, check=False)
        assert_one_line_error(failed, "which --streaming does not allow: leave one out")
