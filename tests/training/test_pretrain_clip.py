"""`hf-vit-suite pretrain clip` as users run it, and what goes on from its folder."""

import json
import math
import shutil
from pathlib import Path

import datasets
import pytest
import torch
from families import TINY_CLIP_TEXT, TINY_CLIP_VISION, TINY_DINO, TINY_MAE, TINY_VIT
from references_of_training import (
    assert_moved_alike,
    assert_one_line_error,
    losses,
    make_colours,
    report,
    save_tiny_classifier,
    training_log,
    weights,
)
from transformers import AutoModel, ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_vit_suite import SuiteCLIPConfig, SuiteCLIPModel, SuiteDINOConfig, SuiteMAEConfig, SuiteViTConfig
from hf_vit_suite.data import load_captioned_images
from hf_vit_suite.training.building import ClassifierArguments, CLIPModelArguments, build_classifier, build_towers
from hf_vit_suite.training.clip import (
    CLIP,
    CaptionDataArguments,
    CLIPMethodArguments,
    CLIPTrainingArguments,
    check_batch,
    job_defaults,
    load_pairs,
)
from hf_vit_suite.training.recipe import Run, RunArguments, build_trainer

OVERRIDES = ",".join(
    [
        *(
            f"{tower}_config.{field}={value}"
            for tower in ("vision", "text")
            for field, value in {
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 64,
            }.items()
        ),
        "vision_config.image_size=16",
        "vision_config.patch_size=4",
        "text_config.max_position_embeddings=12",
        "projection_dim=16",
    ]
)
TINY = ("--train_tokenizer", "--config_overrides", OVERRIDES, "--per_device_train_batch_size", "8",
        "--logging_steps", "1", "--report_to", "none")  # fmt: skip


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    """A folder of 36 pictures with two captions each in metadata.jsonl."""
    folder = make_colours(tmp_path / "captioned", images_a_class=12)
    with open(folder / "metadata.jsonl", "w") as file:
        for path in sorted(folder.rglob("*.png")):
            texts = [f"a {path.parent.name} picture, number {path.stem}", f"{path.parent.name} {path.stem}"]
            file.write(json.dumps({"file_name": str(path.relative_to(folder)), "text": texts}) + "\n")
    return folder


@pytest.fixture
def pretrain(run_command, captioned: Path, tmp_path: Path):
    """Runs the command on the pictures into `tmp_path / "clip"`; further arguments follow."""

    def run(*arguments: str, **options):
        fixed = ("pretrain", "clip", "--dataset", str(captioned), "--output_dir", str(tmp_path / "clip"), *TINY)
        return run_command(*fixed, *arguments, **options)

    return run


def trained_in_process(folder: Path, output: Path, **options) -> SuiteCLIPModel:
    """A tiny model after a few steps of SGD, the same but for `options`."""
    torch.manual_seed(0)
    model_arguments = CLIPModelArguments(config_overrides=OVERRIDES, train_tokenizer=True)
    arguments = CLIPTrainingArguments(
        output_dir=str(output), max_steps=4, optim="sgd", learning_rate=0.1, per_device_train_batch_size=12,
        save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True, **options,
    )  # fmt: skip
    data = CaptionDataArguments(dataset=str(folder))
    run = Run(RunArguments(model_arguments, data, CLIPMethodArguments(), arguments, "a test"), resume_from=None)
    run.data = CLIP.load_data(run.arguments)
    run.model, run.processor = CLIP.build_model(model_arguments, run.data)
    build_trainer(CLIP, run).train()
    return run.model


FRESH_PROCESS = """
import hf_vit_suite, torch
from PIL import Image
from transformers import (AutoImageProcessor, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor,
                          AutoTokenizer, pipeline)
model, same = (auto.from_pretrained("clip").eval() for auto in (AutoModel, AutoModelForZeroShotImageClassification))
processor = AutoProcessor.from_pretrained("clip")
assert type(processor).__name__ == "CLIPProcessor"
assert type(AutoTokenizer.from_pretrained("clip")).__name__ == "CLIPTokenizer"
assert type(AutoImageProcessor.from_pretrained("clip")).__name__ == "CLIPImageProcessor"
image = Image.open("captioned/red/0.png")
inputs = processor(text=["a red picture", "blue"], images=image, return_tensors="pt", padding=True)
with torch.no_grad():
    expected = model(**inputs).logits_per_image.softmax(dim=1)[0].tolist()
    torch.testing.assert_close(same(**inputs).logits_per_image, model(**inputs).logits_per_image)
classify = pipeline("zero-shot-image-classification", model="clip")
found = classify(image, candidate_labels=["a red picture", "blue"], hypothesis_template="{}")
found = {entry["label"]: entry["score"] for entry in found}
assert abs(found["a red picture"] - expected[0]) < 1e-6 and abs(found["blue"] - expected[1]) < 1e-6
"""


def test_trained_folder_holds_everything_the_loss_falls_and_every_auto_class_opens_it(
    pretrain, run_python, tmp_path: Path
):
    output = pretrain("--num_train_epochs", "15", "--learning_rate", "3e-3").stdout
    folder = tmp_path / "clip"
    written = report(folder)
    assert written["images"]["train"] == 36
    assert written["cut_captions"] == 0
    assert written["steps"] == 60
    history = losses(folder)
    assert sum(history[-5:]) < 0.8 * sum(history[:5])
    log = training_log(folder)
    assert all(0 <= entry["in_batch_accuracy"] <= 1 for entry in log if "loss" in entry)
    assert log[0]["temperature"] == pytest.approx(0.07, rel=0.01)
    last = ", ".join(f"{name} {value:.4f}" for name, value in written["metrics"].items())
    assert f"{last} after 60 steps on 36 images" in output
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: zero-shot-image-classification" in card
    assert "trained to match images and captions" in card
    assert "not initialized" not in run_python("-c", FRESH_PROCESS).stderr


def test_resumed_run_drops_the_patches_that_an_unbroken_one_drops(pretrain, tmp_path: Path):
    fixed = ("--max_steps", "8", "--save_strategy", "steps", "--save_steps", "4", "--patch_dropout", "0.5")
    pretrain(*fixed)
    folder, unbroken = tmp_path / "clip", tmp_path / "unbroken"
    shutil.copytree(folder, unbroken)
    shutil.rmtree(folder / "checkpoint-8")
    for path in [path for path in folder.iterdir() if path.is_file()]:
        path.unlink()
    pretrain(*fixed, "--resume_from_checkpoint", "last")
    assert_moved_alike(weights(folder), weights(unbroken), start=weights(folder / "checkpoint-4"))
    assert losses(folder) == pytest.approx(losses(unbroken), rel=1e-4)


def test_streamed_pairs_train_in_bfloat16_with_checkpointing_and_caching(pretrain, tmp_path: Path):
    pretrain("--streaming", "--max_steps", "4", "--bf16", "--use_cpu", "--activation_checkpointing",
             "--gradient_accumulation_steps", "2", "--cached_batch_size", "3", "--patch_dropout", "0.5",
             "--loss_type", "sigmoid")  # fmt: skip
    assert report(tmp_path / "clip")["steps"] == 4
    assert report(tmp_path / "clip")["images"]["train"] is None
    assert all(map(math.isfinite, losses(tmp_path / "clip")))
    assert "logit_bias" in weights(tmp_path / "clip")


def test_steps_of_cached_batches_equal_plain_ones(captioned: Path, tmp_path: Path):
    plain = trained_in_process(captioned, tmp_path / "plain")
    cached = trained_in_process(captioned, tmp_path / "cached", cached_batch_size=5)
    for (name, found), expected in zip(cached.named_parameters(), plain.parameters(), strict=True):
        assert (found - expected).abs().max() <= 1e-6 * max(1, expected.abs().max()), name


def test_scale_is_kept_at_a_hundred(captioned: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("test_pretrain_clip.OVERRIDES", f"{OVERRIDES},logit_scale_init_value=9.0")
    model = trained_in_process(captioned, tmp_path / "out")
    assert 90 < model.logit_scale.exp().item() < 100.001  # of exp(9) at the start


def encoder_folder(folder: Path, family: str) -> Path:
    """A tiny vision transformer of a family with an image processor of its own statistics."""
    configs = {
        "vit": SuiteViTConfig(**TINY_VIT, num_register_tokens=2, layer_scale_init_value=0.5, drop_path_rate=0.1),
        "mae": SuiteMAEConfig(**TINY_MAE),
        "dino": SuiteDINOConfig(**TINY_DINO),
        "clip": SuiteCLIPConfig(vision_config=TINY_CLIP_VISION, text_config=TINY_CLIP_TEXT),
    }
    AutoModel.from_config(configs[family]).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3]).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", ["vit", "mae", "dino", "clip"])
@torch.no_grad()
def test_image_tower_starts_from_any_family_and_stays_locked(family: str, captioned: Path, tmp_path: Path):
    folder = encoder_folder(tmp_path / "encoder", family)
    arguments = CLIPModelArguments(
        config_overrides="text_config.num_hidden_layers=1", image_tower=str(folder), lock_image_tower=True,
        train_tokenizer=True,
    )  # fmt: skip
    model, processor = build_towers(arguments, load_captioned_images(str(captioned)))
    encoder = AutoModel.from_pretrained(folder)
    encoder = getattr(encoder, "vision_model", encoder).eval()
    pixels = torch.randn(2, 3, 32, 32)
    found, expected = (
        tower(pixels, output_hidden_states=True).hidden_states[-1] for tower in (model.eval().vision_model, encoder)
    )
    torch.testing.assert_close(found, expected)
    assert not any(weight.requires_grad for weight in model.vision_model.parameters())
    assert all(weight.requires_grad for weight in model.text_model.parameters())
    assert model.vision_model.config.drop_path_rate == 0
    image = load_captioned_images(str(captioned)).rows.cast_column("image", datasets.Image())[0]["image"]
    source = ViTImageProcessor.from_pretrained(folder)
    found, expected = (
        prepare(image, return_tensors="pt").pixel_values for prepare in (processor.image_processor, source)
    )
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_classifier_goes_on_from_the_image_tower(tmp_path: Path):
    folder = encoder_folder(tmp_path / "encoder", "clip")
    classifier, _ = build_classifier(ClassifierArguments(model=str(folder)), ["cat", "dog"])
    model = AutoModel.from_pretrained(folder).eval()
    pixels = torch.randn(2, 3, 32, 32)
    found = classifier.eval().vit(pixels).pooler_output
    torch.testing.assert_close(found, model.vision_model(pixels).pooler_output)


def test_trained_model_goes_on_with_other_loss_and_patch_dropout(captioned: Path, tmp_path: Path):
    folder = tmp_path / "clip"
    data = load_captioned_images(str(captioned))
    model, processor = build_towers(CLIPModelArguments(config_overrides=OVERRIDES, train_tokenizer=True), data)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    changed, same = build_towers(
        CLIPModelArguments(model=str(folder), loss_type="sigmoid", patch_dropout=0.5, image_size=32), data
    )
    assert changed.config.loss_type == "sigmoid"
    assert changed.config.vision_config.patch_dropout == 0.5
    assert changed.logit_bias.item() == -10
    assert torch.equal(changed.text_projection.weight, model.text_projection.weight)
    assert same.image_processor.crop_size == {"height": 32, "width": 32}
    assert same.tokenizer.get_vocab() == processor.tokenizer.get_vocab()


def test_digits_have_defaults_that_the_command_line_wins_over():
    given = {"dataset": "digits", "model": None, "preset": None, "tokenizer": None, "image_tower": None}
    assert job_defaults(given)["train_tokenizer"]
    assert "train_tokenizer" not in job_defaults(given | {"tokenizer": "some/tokenizer"})
    assert job_defaults(given | {"dataset": "photos"}) == {}


def test_bad_column_is_one_line(pretrain):
    result = pretrain("--text_column", "words", check=False)
    assert_one_line_error(result, "no column 'words'", "name one of text by --text_column")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"per_device_train_batch_size": 1},
            "contrastive loss is 0 for a single pair: .* at least 2",
        ),
        ({"cached_batch_size": 0}, "--cached_batch_size must be at least 1, got 0"),
    ],
)
def test_batches_that_cannot_learn_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        CLIPTrainingArguments(output_dir="unused", report_to="none", **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "mae_vit_base"}, "--preset mae_vit_base is no suite_clip: choose clip_vit_b_32"),
        ({"train_tokenizer": False}, "where no tokenizer can be had, --train_tokenizer makes one"),
        ({"tokenizer": "some/tokenizer"}, "give one of --tokenizer and --train_tokenizer"),
        ({"vocab_size": 100}, "--vocab_size must be at least 514"),
        ({"model": "vit"}, "--train_tokenizer: only for training from scratch"),
        ({"model": "vit", "train_tokenizer": False}, "--model .*vit is no suite_clip but a suite_vit"),
        ({"image_tower": "other"}, "--image_tower .*other is no vision transformer of the suite but a vit"),
        (
            {"image_tower": "vit", "config_overrides": "vision_config.patch_size=4"},
            "--config_overrides of vision_config and --image_tower",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict, message: str, captioned: Path, tmp_path: Path):
    save_tiny_classifier(tmp_path / "vit")
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ViTForImageClassification(config).save_pretrained(tmp_path / "other")
    for name in ("model", "image_tower"):
        if name in arguments:
            arguments = arguments | {name: str(tmp_path / arguments[name])}
    with pytest.raises(ValueError, match=message):
        build_towers(
            CLIPModelArguments(**{"train_tokenizer": True, **arguments}), load_captioned_images(str(captioned))
        )


def test_data_that_do_not_fit_are_refused(captioned: Path):
    with pytest.raises(ValueError, match="--labels names what --caption_templates makes"):
        load_pairs(CaptionDataArguments(dataset=str(captioned), labels="a,b"), seed=42)
    with pytest.raises(ValueError, match="leave --streaming and --text_column out"):
        load_pairs(CaptionDataArguments(caption_templates=["{}"], streaming=True), seed=42)
    with pytest.raises(ValueError, match="--labels names 2 labels, the data has 10"):
        load_pairs(CaptionDataArguments(caption_templates=["{}"], labels="a,b"), seed=42)
    with pytest.raises(ValueError, match=r"needs \{\} where the label's name goes, got 'a cat'"):
        load_pairs(CaptionDataArguments(caption_templates=["a cat"]), seed=42)
    arguments = CLIPTrainingArguments(output_dir="unused", report_to="none", per_device_train_batch_size=40)
    with pytest.raises(ValueError, match="a step takes 40 pairs and the data has 36"):
        check_batch(load_captioned_images(str(captioned)), arguments)


def test_captions_of_labels_name_each_class(captioned: Path):
    names = "zero,one,two,three,four,five,six,seven,eight,nine"
    arguments = CaptionDataArguments(caption_templates=["the digit {}.", "a {}"], labels=names)
    rows = load_pairs(arguments, seed=42).rows
    assert len(rows) < 1797  # without the images that evaluation sees
    assert {tuple(texts) for texts in rows["text"][:]} == {
        (f"the digit {name}.", f"a {name}") for name in names.split(",")
    }
