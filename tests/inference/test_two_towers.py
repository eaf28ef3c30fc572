"""Zero-shot labels, retrieval and `predict --labels`, for the suite's CLIP and transformers'."""

import json
from pathlib import Path

import datasets
import numpy as np
import open_clip
import pytest
import torch
from datasets import Dataset
from families import TINY_CLIP_TEXT, TINY_CLIP_VISION
from PIL import Image
from references_of_training import assert_one_line_error, make_colours, save_tiny_classifier
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPForImageClassification,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    PreTrainedModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    pipeline,
)

from hf_vit_suite import SuiteCLIPConfig, SuiteCLIPModel
from hf_vit_suite.commands.evaluate import run
from hf_vit_suite.data import train_tokenizer
from hf_vit_suite.evaluation import retrieval
from hf_vit_suite.evaluation.retrieval import retrieval_report
from hf_vit_suite.inference.prediction import predict
from hf_vit_suite.inference.two_towers import open_two_towers
from hf_vit_suite.inference.zero_shot import class_features, distinct_names, label_names, prompt_templates

NAMES = ["blue", "green", "red"]
TEMPLATES = ["a photo of a {}.", "a {} thing"]


def save_clip(folder: Path, kind: str, **fields) -> Path:
    """A tiny CLIP of random weights with a tokenizer and an image processor; the fields are of its config."""
    tokenizer = train_tokenizer([template.format(name) for name in NAMES for template in TEMPLATES], 600)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {**TINY_CLIP_TEXT, **ids, "vocab_size": len(tokenizer)}
    shared = {"vision_config": TINY_CLIP_VISION, "text_config": text, "projection_dim": 16, **fields}
    model: PreTrainedModel
    model = SuiteCLIPModel(SuiteCLIPConfig(**shared)) if kind == "suite" else CLIPModel(CLIPConfig(**shared))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn(weight.shape))
    model.save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(params=["suite", "transformers"])
def clip_folder(request, tmp_path: Path) -> Path:
    """A tiny CLIP, ours or transformers'."""
    return save_clip(tmp_path / "clip", request.param)


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Labelled pictures, five a class."""
    return make_colours(tmp_path / "colours", images_a_class=5)


class AsOpenCLIP(torch.nn.Module):
    """A tower of texts with open_clip's method."""

    def __init__(self, towers):
        super().__init__()
        self.towers = towers

    def encode_text(self, texts: Tensor, normalize: bool) -> Tensor:
        features = self.towers.model.get_text_features(texts).pooler_output
        return torch.nn.functional.normalize(features, dim=-1)


@torch.no_grad()
def test_features_of_classes_equal_open_clips(clip_folder: Path):
    towers = open_two_towers(str(clip_folder))
    expected = open_clip.build_zero_shot_classifier(
        AsOpenCLIP(towers),
        lambda texts: towers.tokenizer(texts, padding=True, return_tensors="pt").input_ids,
        NAMES,
        TEMPLATES,
    )
    for batch_size in (2, 64):
        found = class_features(towers, NAMES, TEMPLATES, batch_size)
        torch.testing.assert_close(found, expected.T, rtol=1e-5, atol=1e-6)
    close = class_features(towers, NAMES, TEMPLATES, bf16=True)
    torch.testing.assert_close(close, expected.T, rtol=0.1, atol=0.1)


def test_prompts_are_texts_or_the_papers():
    assert prompt_templates(["a {}", "{}!"]) == ["a {}", "{}!"]
    paper = prompt_templates(["imagenet"])
    assert len(paper) == 80
    assert [template.replace("{}", "cat") for template in paper] == [
        template("cat") for template in open_clip.OPENAI_IMAGENET_TEMPLATES
    ]
    with pytest.raises(ValueError, match=r"needs \{\} where the label's name goes, got 'a cat'"):
        prompt_templates(["a cat"])


def test_names_of_labels_are_checked():
    assert label_names(None, ["0", "1"]) == ["0", "1"]
    assert label_names("zero, one", ["0", "1"]) == ["zero", "one"]
    assert label_names("crane, crane", ["0", "1"]) == ["crane", "crane"]  # as ImageNet has them
    for text, message in (("a", "names 1 labels, the data has 2"), ("a,,b", "none of them empty")):
        with pytest.raises(ValueError, match=message):
            label_names(text, ["0", "1"])


def test_zero_shot_accuracy_is_that_of_the_pipeline(clip_folder: Path, colours: Path, tmp_path: Path, capsys):
    run(["zero-shot", str(clip_folder), "--dataset", str(colours), "--split", "all", "--batch_size", "4",
         "--output_dir", str(tmp_path / "out")])  # fmt: skip
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    classify = pipeline("zero-shot-image-classification", model=str(clip_folder))
    hits = []
    for path in sorted(colours.rglob("*.png")):
        best = classify(Image.open(path), candidate_labels=NAMES, hypothesis_template="a photo of a {}.")[0]["label"]
        hits.append(best == path.parent.name)
    assert written["metrics"]["accuracy"] == pytest.approx(np.mean(hits))
    assert f"zero-shot accuracy {np.mean(hits):.4f} on 15 images" in capsys.readouterr().out
    assert written["templates"] == ["a photo of a {}."]
    assert (tmp_path / "out" / "confusion_matrix.png").is_file()


def brute_force(images: np.ndarray, texts: np.ndarray, owners: np.ndarray) -> dict[str, list[int]]:
    """Ranks by sorting, those that tie with the best partner before it."""
    ranks: dict[str, list[int]] = {"image_to_text": [], "text_to_image": []}
    similarities = images @ texts.T
    for row, values in enumerate(similarities):
        others = sorted(values[owners != row], reverse=True)
        ranks["image_to_text"].append(1 + sum(value >= values[owners == row].max() for value in others))
    for column, values in enumerate(similarities.T):
        own = values[owners[column]]
        ranks["text_to_image"].append(1 + sum(value >= own for value in np.delete(values, owners[column])))
    return ranks


def test_recall_equals_sorting_with_several_captions_and_ties(monkeypatch):
    # Small integers make exact ties.
    images, texts = torch.randint(-2, 3, (2, 60, 4)).float().unbind(0)
    owners = torch.cat((torch.arange(30), torch.randint(0, 30, (30,)))).sort().values
    images = images[:30]
    expected = brute_force(images.numpy(), texts.numpy(), owners.numpy())
    for most_similarities in (1, 420, 2**24):
        monkeypatch.setattr(retrieval, "MOST_SIMILARITIES", most_similarities)
        for name, metrics in retrieval_report(images, texts, owners).items():
            ranks = np.array(expected[name])
            for most in (1, 5, 10):
                assert metrics[f"recall@{most}"] == pytest.approx((ranks <= most).mean())
            assert metrics["median_rank"] == np.median(ranks)


def test_features_that_are_all_alike_find_nothing():
    metrics = retrieval_report(torch.ones(20, 4), torch.ones(20, 4), torch.arange(20))
    assert metrics["image_to_text"]["recall@10"] == metrics["text_to_image"]["recall@10"] == 0


def test_features_that_are_no_numbers_find_nothing():
    features = torch.full((20, 4), torch.nan)
    for metrics in retrieval_report(features, features, torch.arange(20)).values():
        assert metrics["recall@10"] == 0


def save_siglip(folder: Path) -> SiglipModel:
    """A tiny SigLIP of transformers, whose tokenizer gives no mask, as those of the published ones."""
    tokenizer = train_tokenizer(NAMES, 600)
    tokenizer.save_pretrained(folder)
    CLIPTokenizer.from_pretrained(folder, model_input_names=["input_ids"]).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {**TINY_CLIP_TEXT, **ids, "vocab_size": len(tokenizer), "projection_size": 32}
    model = SiglipModel(SiglipConfig(vision_config=TINY_CLIP_VISION, text_config=text)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn(weight.shape))
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def test_siglip_reads_texts_that_are_filled_up_and_needs_labels(tmp_path: Path):
    model = save_siglip(tmp_path / "siglip")
    towers = open_two_towers(str(tmp_path / "siglip"))
    tokens = towers.tokenizer(NAMES, padding="max_length", max_length=12, return_tensors="pt")
    expected = torch.nn.functional.normalize(model.get_text_features(**tokens).pooler_output, dim=-1)
    torch.testing.assert_close(towers.encode_texts(NAMES, batch_size=2), expected)
    with pytest.raises(ValueError, match="has no labels of its own"):
        predict(str(tmp_path / "siglip"), [])


@torch.no_grad()
def test_siglips_predictions_are_each_labels_own_probability(colours: Path, tmp_path: Path):
    model = save_siglip(tmp_path / "siglip")
    path = colours / "red" / "0.png"
    (found,) = predict(str(tmp_path / "siglip"), [path], labels=NAMES, template="a {} thing")
    towers = open_two_towers(str(tmp_path / "siglip"))
    pixels = towers.image_processor([Image.open(path)], return_tensors="pt")
    logits = model(**towers.tokenize([f"a {name} thing" for name in NAMES]), **pixels).logits_per_image
    probabilities = {entry["label"]: entry["probability"] for entry in found["labels"]}
    assert probabilities == pytest.approx(dict(zip(NAMES, logits[0].sigmoid().tolist(), strict=True)), rel=1e-4)


def test_clip_with_a_classifier_has_labels_of_its_own(tmp_path: Path, colours: Path):
    config = CLIPConfig(vision_config=TINY_CLIP_VISION, text_config=TINY_CLIP_TEXT, id2label=dict(enumerate(NAMES)))
    CLIPForImageClassification(config).save_pretrained(tmp_path / "head")
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(tmp_path / "head")
    predictions = predict(str(tmp_path / "head"), [colours / "red" / "0.png"])
    assert {entry["label"] for entry in predictions[0]["labels"]} == set(NAMES)
    with pytest.raises(ValueError, match="is a classifier with labels of its own: leave --labels out"):
        predict(str(tmp_path / "head"), [], labels=NAMES)


def test_labels_that_share_a_name_are_told_apart_in_reports():
    assert distinct_names(["crane", "cat", "crane"]) == {0: "crane (0)", 1: "cat", 2: "crane (2)"}


def test_retrieval_reads_captions_and_reports_both_ways(clip_folder: Path, colours: Path, tmp_path: Path, capsys):
    rows = [(str(path.relative_to(colours)), f"{path.parent.name} {path.stem}") for path in colours.rglob("*.png")]
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in [*rows, ("blue/0.png", "")]]
    (colours / "metadata.jsonl").write_text("\n".join(lines))
    run(["retrieval", str(clip_folder), "--dataset", str(colours), "--split", "train",
         "--output_dir", str(tmp_path / "out")])  # fmt: skip
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (written["images"], written["captions"], len(written["skipped_images"])) == (15, 15, 1)
    output = capsys.readouterr().out
    for name in ("image_to_text", "text_to_image"):
        recalls = written["metrics"][name]
        assert recalls["recall@1"] <= recalls["recall@5"] <= recalls["recall@10"]
        assert f"{name.replace('_', ' ')}: R@1 {recalls['recall@1']:.4f}" in output


def test_predicted_labels_are_those_of_the_pipeline(clip_folder: Path, colours: Path):
    path = colours / "red" / "0.png"
    predictions = predict(str(clip_folder), [path, "gone.png"], labels=NAMES, template="a {} thing")
    classify = pipeline("zero-shot-image-classification", model=str(clip_folder))
    expected = classify(Image.open(path), candidate_labels=NAMES, hypothesis_template="a {} thing")
    found = {entry["label"]: entry["probability"] for entry in predictions[0]["labels"]}
    assert found == pytest.approx({entry["label"]: entry["score"] for entry in expected}, rel=1e-5)
    assert "gone.png is no readable image" in predictions[1]["error"]


@torch.no_grad()
def test_a_clip_of_the_sigmoid_loss_predicts_each_label_by_itself(colours: Path, tmp_path: Path):
    folder, path = (
        save_clip(tmp_path / "clip", "suite", loss_type="sigmoid", logit_bias_init_value=-2.0),
        colours / "red" / "0.png",
    )
    model, processor = SuiteCLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    inputs = processor(text=NAMES, images=Image.open(path), return_tensors="pt", padding=True)
    expected = model(inputs.input_ids, inputs.pixel_values).logits_per_image[0].sigmoid()
    predictions = predict(str(folder), [path], labels=NAMES, template="{}")
    found = {entry["label"]: entry["probability"] for entry in predictions[0]["labels"]}
    assert found == pytest.approx(dict(zip(NAMES, expected.tolist(), strict=True)), rel=1e-4)
    assert sum(found.values()) != pytest.approx(1)


def test_models_without_texts_and_clips_without_labels_are_refused(tmp_path: Path):
    classifier = str(save_tiny_classifier(tmp_path / "classifier"))
    with pytest.raises(ValueError, match="is a classifier with labels of its own: leave --labels out"):
        predict(classifier, [], labels=NAMES)
    with pytest.raises(ValueError, match="compares no images with texts: it is a suite_vit"):
        open_two_towers(classifier)
    folder = str(save_clip(tmp_path / "clip", "suite"))
    with pytest.raises(ValueError, match='has no labels of its own: name zero-shot labels, --labels "a cat,a dog"'):
        predict(folder, [])
    with pytest.raises(ValueError, match="at least 2 labels to choose from, got cat"):
        predict(folder, [], labels=["cat"])


def test_commands_predict_and_explain_by_texts(run_command, colours: Path, tmp_path: Path):
    folder, picture = str(save_clip(tmp_path / "clip", "suite")), str(colours / "red" / "0.png")
    output = run_command("predict", folder, picture, "--labels", "red, blue", "--json").stdout
    labels = json.loads(output)[0]["labels"]
    assert {entry["label"] for entry in labels} == {"red", "blue"}
    assert sum(entry["probability"] for entry in labels) == pytest.approx(1)
    run_command("explain", folder, picture, "--text", "red", "a blue thing", "--out", str(tmp_path / "match.png"))
    with Image.open(tmp_path / "match.png") as figure:
        assert figure.width > 2 * figure.height
    result = run_command("predict", folder, picture, "--labels", "red,,blue", check=False)
    assert_one_line_error(result, "--labels takes names with commas between, none of them empty, got 'red,,blue'")


def test_captions_that_read_the_same_are_right_for_each_image_that_has_them():
    images = torch.eye(3)
    # Two captions of equal words belong to the first and the second image; the third has its own.
    texts = torch.stack((images[0] + images[1], images[0] + images[1], images[2]))
    owners, wordings = torch.arange(3), torch.tensor([0, 0, 1])
    report = retrieval_report(images, texts, owners, wordings)
    assert report["image_to_text"]["recall@1"] == 1
    assert report["text_to_image"]["recall@1"] == pytest.approx(1 / 3)  # of the two images one is the caption's own
    assert retrieval_report(images, texts, owners)["image_to_text"]["recall@1"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("kind", ["one file", "files", "bytes"])
def test_retrieval_of_a_row_a_caption_equals_that_of_lists(kind: str, colours: Path, tmp_path: Path, capsys):
    folder = save_clip(tmp_path / "clip", "suite")
    files = sorted(colours.rglob("*.png"))
    captions = {file: [f"{file.parent.name} {file.stem}", f"a {file.parent.name} thing {file.stem}"] for file in files}

    def source(name: str, rows: list[tuple[Path, object]]) -> Path:
        (tmp_path / name).mkdir()
        if kind == "bytes":
            columns = {"image": [{"bytes": file.read_bytes(), "path": None} for file, _ in rows]}
            columns["text"] = [text for _, text in rows]
            Dataset.from_dict(columns).cast_column("image", datasets.Image()).to_parquet(
                tmp_path / name / "test.parquet"
            )
            return tmp_path / name
        lines = []
        for number, (file, text) in enumerate(rows):
            stem = file.relative_to(colours).with_suffix("") if kind == "one file" else Path(str(number))
            copy = tmp_path / name / "train" / f"{stem}.png"
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
            lines.append(json.dumps({"file_name": str(copy.relative_to(tmp_path / name / "train")), "text": text}))
        (tmp_path / name / "train" / "metadata.jsonl").write_text("\n".join(lines))
        return tmp_path / name

    lists = source("lists", [(file, captions[file]) for file in files])
    rows = source("rows", [(file, text) for number in (0, 1) for file in files for text in [captions[file][number]]])
    written = []
    for data in (lists, rows):
        run(["retrieval", str(folder), "--dataset", str(data), "--split", "train", "--output_dir",
             str(tmp_path / f"{data.name}_out")])  # fmt: skip
        written.append(json.loads((tmp_path / f"{data.name}_out" / "metrics.json").read_text()))
        assert "on 15 images and 30 captions" in capsys.readouterr().out
    expected, found = (report["metrics"] for report in written)
    for way, metrics in expected.items():
        assert found[way] == pytest.approx(metrics), way
