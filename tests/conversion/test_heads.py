"""Attention heads of towers whose weights don't tell them: the error names the option that sets them."""

import re
from pathlib import Path

import open_clip
import pytest
import torch
from hf_vit_suite.conversion import convert, export_reference, load
from published import PIXELS, TEXTS, open_clip_outputs, script
from references import randomise
from safetensors.torch import save_file

from hf_vit_suite.cli import main
from hf_vit_suite.config_overrides import parse_overrides

# Not published: 96 and 48 channels wide.
VISION = {"image_size": 32, "layers": 2, "width": 96, "head_width": 24, "patch_size": 16}
TEXT = {"context_length": 7, "vocab_size": 50, "width": 48, "heads": 3, "layers": 2}
HEADS = {"vision_config.num_attention_heads": 4, "text_config.num_attention_heads": 3}


def tiny_clip(vision: dict = VISION, text: dict = TEXT, **options) -> open_clip.CLIP:
    """open_clip's, with random weights."""
    return randomise(open_clip.CLIP(embed_dim=32, vision_cfg=vision, text_cfg=text, **options))


def save_open_clip(path: Path, model: open_clip.CLIP) -> Path:
    """The file of open_clip."""
    save_file(dict(model.state_dict()), path)
    return path


def save_openai(path: Path, model: open_clip.CLIP) -> Path:
    """OpenAI's archive."""
    numbers = {"input_resolution": 32, "context_length": 7, "vocab_size": 50}
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return script(path, state | {name: torch.tensor(number) for name, number in numbers.items()})


@torch.no_grad()
def assert_same_outputs(model, reference: open_clip.CLIP) -> None:
    """Both towers give what the reference's give."""
    images, texts, _ = open_clip_outputs(reference)
    outputs = model(TEXTS, PIXELS)
    torch.testing.assert_close(outputs.image_embeds, images, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(outputs.text_embeds, texts, atol=1e-5, rtol=1e-4)


def test_what_the_error_asks_for_then_works(tmp_path: Path, capsys: pytest.CaptureFixture):
    source = save_open_clip(tmp_path / "narrow.safetensors", tiny_clip())
    command, given = ["convert", str(source), str(tmp_path / "out")], []
    for answer in ("4", "3"):
        assert main([*command, *(["--config_overrides", ",".join(given)] if given else [])]) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        asked = re.search(r"--config_overrides (\S+)=N$", error)
        assert asked, error
        given.append(f"{asked[1]}={answer}")
    assert main([*command, "--config_overrides", ",".join(given), "--verify"]) == 0


@pytest.mark.parametrize(
    "overrides", [HEADS, {name.split(".")[0]: {"num_attention_heads": n} for name, n in HEADS.items()}]
)
def test_overrides_of_a_part_work_from_python(overrides: dict, tmp_path: Path):
    reference = tiny_clip()
    source = save_open_clip(tmp_path / "narrow.safetensors", reference)
    assert_same_outputs(load(source, config_overrides=overrides), reference)
    assert_same_outputs(convert(source, tmp_path / "out", config_overrides=overrides), reference)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_openais_files_have_64_channels_a_head_unless_the_user_says_otherwise(tmp_path: Path):
    vision, text = {**VISION, "width": 128, "head_width": 64}, {**TEXT, "width": 128, "heads": 2}
    reference = tiny_clip(vision, text, quick_gelu=True)
    source = save_openai(tmp_path / "wide.pt", reference)
    assert_same_outputs(load(source), reference)
    reference = tiny_clip(quick_gelu=True)
    narrow = save_openai(tmp_path / "narrow.pt", reference)
    with pytest.raises(ValueError, match=r"--config_overrides text_config\.num_attention_heads=N"):
        load(narrow, config_overrides={"vision_config": {"num_attention_heads": 4}})
    assert_same_outputs(load(narrow, config_overrides=HEADS), reference)


def test_a_model_with_other_heads_has_no_place_in_openais_layout(tmp_path: Path):
    source = save_open_clip(tmp_path / "narrow-quickgelu.safetensors", tiny_clip(quick_gelu=True))
    convert(source, tmp_path / "ours", config_overrides=HEADS)
    with pytest.raises(ValueError, match="openai-clip has no form"):
        export_reference(tmp_path / "ours", tmp_path / "back.pt", "openai-clip")


def test_sides_of_an_oblong_clip_are_asked_for_in_the_form_that_then_works(tmp_path: Path, capsys):
    reference = tiny_clip({**VISION, "image_size": [32, 48]})
    source = save_open_clip(tmp_path / "oblong.safetensors", reference)
    command = ["convert", str(source), str(tmp_path / "out"), "--config_overrides"]
    heads = ",".join(f"{name}={value}" for name, value in HEADS.items())
    assert main([*command, heads]) == 1
    assert "--config_overrides vision_config.image_size=[HEIGHT,WIDTH]" in capsys.readouterr().err
    assert main([*command, f"{heads},vision_config.image_size=[32,48]"]) == 0
    assert load(tmp_path / "out").config.vision_config.image_height_width == (32, 48)


def test_overrides_change_parts_and_keep_the_presets_other_fields(tmp_path: Path):
    source = save_open_clip(
        tmp_path / "wide.safetensors", tiny_clip({**VISION, "width": 192}, {**TEXT, "width": 64, "heads": 1})
    )
    with pytest.raises(ValueError, match="lacks 120 tensors"):  # of the preset's 12 layers
        convert(source, tmp_path / "o", preset="clip_vit_b_16", config_overrides={"vision_config.patch_dropout": 0.1})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"vision_config.hats": 1, **HEADS}, "SuiteCLIPVisionConfig has no field hats"),
        ({"hats": 1, **HEADS}, "SuiteCLIPConfig has no field hats"),
        (
            {"projection_dim.size": 1, **HEADS},
            "projection_dim of SuiteCLIPConfig has no fields of its own, got {'size': 1}",
        ),
        (
            {"vision_config": 3, "text_config.num_attention_heads": 3},
            "vision_config is a config, got 3: set its fields",
        ),
        (
            {**HEADS, "vision_config.num_attention_heads": "x"},
            "vision_config.num_attention_heads of SuiteCLIPVisionConfig must be a number, got 'x'",
        ),
        (
            {**HEADS, "text_config": {"vocab_size": [3]}},
            "text_config.vocab_size of SuiteCLIPTextConfig must be a number",
        ),
    ],
)
def test_overrides_of_fields_that_are_not_there_are_refused(overrides: dict, message: str, tmp_path: Path):
    source = save_open_clip(tmp_path / "narrow.safetensors", tiny_clip())
    with pytest.raises(ValueError, match=re.escape(message)):
        convert(source, tmp_path / "out", config_overrides=overrides)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'a.b=1, a.c=x,d=[1,2],e={"f": 1, "g": 2}',
            {"a": {"b": 1, "c": "x"}, "d": [1, 2], "e": {"f": 1, "g": 2}},
        ),
        ('v={"heads":4,"size":[32,32]},v.depth=2', {"v": {"heads": 4, "size": [32, 32], "depth": 2}}),
        ("a=[[1,2],[3,4]],b=1", {"a": [[1, 2], [3, 4]], "b": 1}),
        ('hidden_act="a,b",b=2d', {"hidden_act": "a,b", "b": "2d"}),
        ("a=,b=1,", {"a": "", "b": 1}),
        ("a=1,a=2", {"a": 2}),
        (None, {}),
    ],
)
def test_overrides_are_read_with_dots_and_json(text: str | None, expected: dict):
    assert parse_overrides(text) == expected


@pytest.mark.parametrize("text", ["a=1,a.b=2", "a.b=2,a=1", "p.a.b=2,p.a=1", 'p={"a":1},p.a.b=2'])
def test_a_field_is_set_to_a_value_or_by_its_fields_not_both(text: str):
    with pytest.raises(ValueError, match=r"set both (p\.)?a and its field (p\.)?a\.b: give only one of them"):
        parse_overrides(text)


@pytest.mark.parametrize(("text", "pair"), [("a=1,b", "'b'"), ("b,a=1", "'b'"), ("=1", "'='"), ("a.=1", "'a.='")])
def test_what_is_no_pair_is_named(text: str, pair: str):
    with pytest.raises(ValueError, match=re.escape(f"takes name=value pairs with commas between, got {pair}")):
        parse_overrides(text)
