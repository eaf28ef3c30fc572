"""`hf-vit-suite explain` on every family and by every method."""

from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from explained import transformers_classifier
from families import TINY_DINO, TINY_MAE, TINY_VIT
from PIL import Image
from transformers import CLIPImageProcessor, PreTrainedModel, ViTImageProcessor

from hf_vit_suite import (
    SuiteDINOConfig,
    SuiteDINOForPreTraining,
    SuiteMAEConfig,
    SuiteMAEForPreTraining,
    SuiteViTConfig,
    SuiteViTForImageClassification,
    SuiteViTModel,
)
from hf_vit_suite.cli import main
from hf_vit_suite.commands.explain import METHODS as EXPLAIN_METHODS
from hf_vit_suite.data import decode_image
from hf_vit_suite.explain.files import OPTIONS, open_explainer, see
from hf_vit_suite.names import visible

NAMED = {**TINY_VIT, "id2label": {0: "cat", 1: "dog", 2: "owl"}}
CROPPING = CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
SQUARE = ViTImageProcessor(size={"height": 32, "width": 32})
MODELS = {
    "classifier": (lambda: SuiteViTForImageClassification(SuiteViTConfig(**NAMED)), SQUARE),
    "distilled": (
        lambda: SuiteViTForImageClassification(SuiteViTConfig(**NAMED, use_distillation_token=True)),
        CROPPING,
    ),
    "encoder": (lambda: SuiteViTModel(SuiteViTConfig(**TINY_VIT, num_register_tokens=2)), CROPPING),
    "mae": (lambda: SuiteMAEForPreTraining(SuiteMAEConfig(**TINY_MAE)), SQUARE),
    "dino": (lambda: SuiteDINOForPreTraining(SuiteDINOConfig(**TINY_DINO)), CROPPING),
    "transformers-vit": (lambda: transformers_classifier("vit")[0], SQUARE),
    "transformers-dinov2": (lambda: transformers_classifier("dinov2")[0], CROPPING),
}
WITH_CLASSES = ("classifier", "distilled", "transformers-vit", "transformers-dinov2")


@pytest.fixture
def saved(tmp_path: Path):
    """Saves a model of `MODELS` and returns its folder."""

    def save(name: str) -> str:
        make, processor = MODELS[name]
        model: PreTrainedModel = make()
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """A wide and a tall picture."""
    random, paths = np.random.default_rng(0), []
    for name, (width, height) in (("wide", (90, 50)), ("tall", (40, 70))):
        pixels = random.integers(0, 255, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        paths.append(str(tmp_path / f"{name}.png"))
    return paths


@pytest.mark.parametrize("name", MODELS)
def test_every_method_that_suits_a_family_explains_pictures_of_several_sizes(
    saved, pictures: list[str], tmp_path: Path, name: str, capfd: pytest.CaptureFixture
):
    folder = saved(name)
    for method in OPTIONS:
        out = tmp_path / "out" / method
        code = main(["explain", folder, *pictures, "--method", method, "--out", str(out)])
        if (method in ("relevance", "gradient") and name not in WITH_CLASSES) or (
            method == "reconstruction" and name != "mae"
        ):
            assert code == 1
            assert not out.exists()
            continue
        assert code == 0, capfd.readouterr().err
        assert sorted(path.name for path in out.iterdir()) == ["grid.png", "tall.png", "wide.png"]
        with Image.open(out / "wide.png") as wide, Image.open(out / "tall.png") as tall:
            assert (wide.size, tall.size) == ((90, 50), (40, 70))
            assert np.asarray(wide).std() > 5


def test_command_lists_every_method():
    assert set(EXPLAIN_METHODS) == set(OPTIONS)


def test_arrays_have_the_pictures_resolution(saved, pictures: list[str], tmp_path: Path):
    folder, out = saved("classifier"), tmp_path / "maps"
    assert main(["explain", folder, *pictures, "--method", "rollout", "--format", "npy", "--out", str(out)]) == 0
    assert {path.name: np.load(path).shape for path in out.iterdir()} == {
        "tall.npy": (1, 70, 40),
        "wide.npy": (1, 50, 90),
    }
    alone = tmp_path / "heads.npy"
    assert main(["explain", folder, pictures[0], pictures[0], "--out", str(alone)]) == 0
    assert np.load(alone).shape == (2, 1 + 2, 50, 90)
    assert main(["explain", folder, *pictures, "--out", str(tmp_path / "both.npy")]) == 1
    assert not (tmp_path / "both.npy").exists()


def test_animation_has_a_frame_a_layer(saved, pictures: list[str], tmp_path: Path):
    folder = saved("classifier")
    for method in ("attention", "relevance"):
        out = tmp_path / f"{method}.gif"
        assert main(["explain", folder, *pictures, "--method", method, "--out", str(out)]) == 0
        with Image.open(out) as animation:
            assert animation.n_frames == 3
    out = tmp_path / "each"
    assert main(["explain", folder, pictures[0], "--head", "1", "--format", "gif", "--out", str(out)]) == 0
    with Image.open(out / "wide.gif") as animation:
        assert (animation.size, animation.n_frames) == ((90, 50), 3)


def test_vector_figure_names_the_prediction_and_the_target_changes_the_map(saved, pictures: list[str], tmp_path: Path):
    folder, arrays = saved("classifier"), {}
    out = tmp_path / "figure.svg"
    assert main(["explain", folder, pictures[0], "--method", "relevance", "--out", str(out)]) == 0
    assert "predicted: " in out.read_text()
    for target in ("owl", "2", "cat"):
        out = tmp_path / f"{target}.npy"
        command = ["explain", folder, pictures[0], "--method", "relevance", "--target", target, "--out", str(out)]
        assert main(command) == 0
        arrays[target] = np.load(out)
    np.testing.assert_allclose(arrays["owl"], arrays["2"], rtol=1e-4, atol=1e-6)
    assert not np.allclose(arrays["owl"], arrays["cat"])


def test_pictures_of_one_name_get_files_of_their_own(saved, pictures: list[str], tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("wide", "grid"):
        Image.new("RGB", (30, 30)).save(other / f"{name}.png")
    given = [pictures[0], str(other / "wide.png"), str(other / "grid.png")]
    assert main(["explain", saved("encoder"), *given, "--method", "mask", "--out", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "grid-2.png",
        "grid.png",
        "wide-2.png",
        "wide.png",
    ]


def test_picture_is_seen_whole_in_the_processors_scale(saved, pictures: list[str], tmp_path: Path):
    folder, seen = saved("encoder"), {}
    explainer = open_explainer(folder, "attention", {})
    for path in pictures:
        seen[Path(path).stem] = tuple(see(explainer, decode_image(path)).shape[-2:])
    # The shorter side of 40 pixels, the longer one rounded to patches of 8.
    assert seen == {"wide": (40, 72), "tall": (72, 40)}
    explainer.processor.do_resize = False
    assert see(explainer, decode_image(pictures[0])).shape[-2:] == (48, 88)


def test_folder_that_exists_is_a_folder_whatever_its_name(saved, pictures: list[str], tmp_path: Path):
    out = tmp_path / "maps.v1"
    out.mkdir()
    assert main(["explain", saved("encoder"), pictures[0], "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["grid.png", "wide.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "pca", "--head", "1"], "--head is no option of --method pca"),
        (["--method", "rollout", "--text", "a cat"], "--text is no option of --method rollout"),
        (["--method", "relevance", "--target", "fish"], "the model has no class 'fish': it knows cat, dog, owl"),
        (["--layer", "7"], "layer must be from -3 to 2, got 7"),
        (["--method", "reconstruction"], "reconstructs nothing: it is no masked autoencoder but a suite_vit"),
        (["--method", "similarity", "--point", "1", "0.5"], "--point must be shares from 0 to below 1, got 1.0 0.5"),
        (["--text", "a cat"], "compares no images with texts: it is a suite_vit"),
        (["--format", "svg"], "x.png can't be written: explanations are files or folders of png, svg, npy, gif"),
    ],
)
def test_wrong_request_is_one_line_and_leaves_nothing(
    saved, pictures: list[str], tmp_path: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture
):
    folder = saved("classifier")
    before = sorted(tmp_path.iterdir())
    assert main(["explain", folder, pictures[0], *arguments, "--out", str(tmp_path / "x.png")]) == 1
    assert message in capfd.readouterr().err.strip().splitlines()[-1]
    assert sorted(tmp_path.iterdir()) == before


NAMED_FILES = ["Ba$$in ^_$x$", "new\nline \x1b[1m", "n" * 250, "חתול", r"back\slash <b>|*`{", ".hidden"]


def test_files_of_any_name_are_explained_into_files_of_that_name(saved, tmp_path: Path, capsys: pytest.CaptureFixture):
    paths = [tmp_path / "photos" / f"{name}.png" for name in NAMED_FILES]
    paths[0].parent.mkdir()
    for path in paths:
        Image.new("RGB", (30, 20), "white").save(path)
    out = tmp_path / "out"
    command = ["explain", saved("encoder"), *map(str, paths), "--method", "mask", "--format", "svg"]
    assert main([*command, "--out", str(out)]) == 0
    expected = ["Ba$$in ^_$x$", "new_line _[1m", "n" * 200, "חתול", r"back\slash <b>|*`{", ".hidden", "grid"]
    assert {path.name for path in out.iterdir()} == {f"{name}.svg" for name in expected}
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wrote ")]
    assert len(printed) == len(expected), "one line a file"


@pytest.mark.parametrize("label", ["$5 or $10", "a^b_{c", "<b>&amp;</b>", "חתול", "tab\tand \x07 bell"])
def test_figure_names_the_predicted_class_as_it_is(tmp_path: Path, pictures: list[str], label: str):
    config = SuiteViTConfig(**{**NAMED, "id2label": {0: label, 1: label, 2: label}})
    SuiteViTForImageClassification(config).save_pretrained(tmp_path / "model")
    SQUARE.save_pretrained(tmp_path / "model")
    out = tmp_path / "figure.svg"
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        assert main(["explain", str(tmp_path / "model"), pictures[0], "--method", "rollout", "--out", str(out)]) == 0
    texts = ElementTree.parse(out).getroot().iter("{http://www.w3.org/2000/svg}text")
    title = " ".join(text.text for text in texts if text.text)
    assert f"predicted: {visible(label)} (" in title


def test_letters_that_no_font_has_are_a_warning_in_every_format(
    saved, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    picture = tmp_path / "猫.png"
    Image.new("RGB", (30, 20), "white").save(picture)
    folder = saved("encoder")
    for suffix in ("png", "svg", "gif"):
        caplog.clear()
        out = tmp_path / f"figure.{suffix}"
        with matplotlib.rc_context({"font.family": ["DejaVu Sans"]}):
            assert main(["explain", folder, str(picture), "--out", str(out)]) == 0
        assert [message.split(",")[0] for message in caplog.messages] == [
            f"figure.{suffix}: no font of matplotlib has 猫"
        ]
