"""Names of classes, files and models are data: no figure, table or card reads markup in them."""

import html
import io
import json
import logging
import re
import sys
import warnings
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hf_vit_suite import cli
from hf_vit_suite.commands.predict import print_predictions
from hf_vit_suite.evaluation.plots import confusion_figure, precision_recall_figure
from hf_vit_suite.explain import figure
from hf_vit_suite.hub import (
    ClassifierFacts,
    PretrainedFacts,
    classifier_card,
    code,
    plain,
    pretrained_card,
    shell_word,
)
from hf_vit_suite.names import file_name, shortened, visible
from hf_vit_suite.output import write_figures

NAMES = [
    "$20_$50",
    "Ba$$in ^{",
    r"back\$lash",
    "a|b",
    "<i>",
    "[bold]x[/bold]",
    ":cat:",
    "two\nlines",
    "*_`~`_*",
    "חתול",
]


def draw(drawn: Figure) -> None:
    """Draws all of a figure; its fonts need not have every letter."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        FigureCanvasAgg(drawn).draw()


@pytest.mark.parametrize("parse_math", [True, False])
def test_figures_draw_names_as_they_are(parse_math: bool):
    numbers = np.arange(len(NAMES))
    with matplotlib.rc_context({"text.parse_math": parse_math}):
        matrix = confusion_figure(numbers, numbers, NAMES)
        draw(matrix)
        explained = figure([np.zeros((8, 8, 3))], [[torch.rand(2, 2)] * 2], ["$x_$ ^"], ["costs $5_", "$1 or $2^"])
        draw(explained)
    axis = matrix.axes[0]
    for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
        assert [label.get_text() for label in labels] == NAMES
        assert not any(label.get_parse_math() for label in labels)
    titles = [axis.title for axis in explained.axes[:3]]
    assert [title.get_text() for title in titles] == ["$x_$ ^", "costs $5_", "$1 or $2^"]
    assert not any(title.get_parse_math() for title in titles)


def test_a_legend_has_every_name_as_it_is():
    names = ["_leading", "__", "$5_", "two\nlines", "\x07"]
    targets = np.eye(len(names))
    drawn = precision_recall_figure(targets, targets - 0.5, names)
    draw(drawn)
    texts = drawn.axes[0].get_legend().get_texts()
    assert [text.get_text() for text in texts] == [*names[:-1], r"\x07"]
    assert not any(text.get_parse_math() for text in texts)


def test_no_name_goes_through_latex():
    numbers = np.arange(len(NAMES))
    with matplotlib.rc_context({"text.usetex": True}):
        matrix = confusion_figure(numbers, numbers, NAMES)
        explained = figure([np.zeros((8, 8, 3))], [[torch.rand(2, 2) > 0.5]], ["100%"], ["$"])
    shown = [*matrix.axes[0].get_xticklabels(), *(axis.title for axis in explained.axes)]
    assert not any(text.get_usetex() for text in shown)


def test_table_of_predictions_has_names_as_they_are(capsys: pytest.CaptureFixture):
    names = [*NAMES, "\x1b[31mred", "a\r\tb", "photo\u202egpj"]
    labels = [{"label": name, "probability": 0.1} for name in names]
    print_predictions([{"image": "[red]a[/red]\n.png", "labels": labels}])
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if "0.1000" in line]
    assert rows[0][0] == r"[red]a[/red]\n.png"
    assert [" ".join(row[-1 - len(name.split(" ")) : -1]) for row, name in zip(rows, names, strict=True)] == [
        visible(name) for name in names
    ]


def text_of(markdown: str) -> str:
    """What a reader of Markdown with tables sees."""
    rendered = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown)
    return html.unescape(re.sub("<[^>]*>", "", rendered))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shown", [plain, code])
def test_markdown_shows_names_as_they_are(name: str, shown):
    assert text_of(f"a {shown(name)} b").strip() == f"a {' '.join(name.split())} b"


def test_names_keep_to_their_cell_of_a_table():
    rows = "\n".join(f"| {plain(name)} | 1 |" for name in NAMES)
    rendered = MarkdownIt("commonmark").enable("table").render(f"| a | b |\n| --- | --- |\n{rows}\n")
    assert rendered.count("<td>") == 2 * len(NAMES)


def classifier_facts(**changes) -> ClassifierFacts:
    """What a card tells of a model and labels with such names."""
    facts = {
        "name": 'a "b" $c',
        "base": None,
        "architecture": "vit with x_y_z",
        "dataset": "`data`|set",
        "label_names": NAMES,
        "images": {"test": 3},
        "metrics": {"test": {"accuracy": 0.5}},
        "skipped": 0,
        "command": "hf-vit-suite finetune --dataset '```'",
        "training": "3 steps.",
        "figures": ["curves.png"],
    }
    return ClassifierFacts(**{**facts, **changes})


def test_cards_show_names_as_they_are_and_parse():
    card = ModelCard(str(classifier_card(classifier_facts())))
    assert card.data.model_name == 'a "b" $c'
    text = text_of(card.text)
    for shown in ('a "b" $c', "vit with x_y_z", "`data`|set", *(" ".join(name.split()) for name in NAMES)):
        assert shown in text
    assert f"model={json.dumps(card.data.model_name)}, trust_remote_code=True" in text
    assert "finetune --dataset '```'\n\n3 steps." in text
    assert "confusion_matrix.png" not in card.text


def test_a_pretrained_models_commands_quote_its_name():
    facts = classifier_facts()
    fields = {name: getattr(facts, name) for name in ("name", "architecture", "dataset", "skipped", "command")}
    card = pretrained_card(PretrainedFacts(**fields, images=3, metrics={"loss": 1.0}, figures=[], training="3 steps."))
    assert "hf-vit-suite finetune --model 'a \"b\" $c' --dataset DATA" in card.text
    assert 'from_pretrained("a \\"b\\" $c", trust_remote_code=True)' in card.text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("two\nlines", r"two\nlines"),
        ("\x1b[31mred\x00\x7f", r"\x1b[31mred\x00\x7f"),
        ("photo\u202egpj.exe", r"photo\u202egpj.exe"),
        ("byte \udcff", r"byte \udcff"),
        ("a\u2028b\x85", r"a\u2028b\x85"),
    ],
)
def test_control_characters_become_visible(name: str, shown: str):
    assert visible(name) == shown
    assert visible(shown) == shown


@pytest.mark.parametrize("name", ["חתול", "قطة", "می\u200cخواهم", "👩\u200d🚀", "é", "ａ", "$\\{_^|<*`"])
def test_every_script_and_joiner_stays(name: str):
    assert visible(name) == name


def svg_texts(path: Path) -> list[str]:
    """The texts of an SVG that is well-formed XML, line by line; matplotlib writes each as a comment."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    root = ElementTree.parse(path, parser).getroot()
    return [html.unescape(node.text.strip()) for node in root.iter() if node.tag is ElementTree.Comment]


SHOWN_IN_FIGURES = ["50% of $x$", r"\frac{1}{2}", "a^b_c~&#", "<b>&amp;</b>", "`{[(", "ends with \\"]


def test_saved_figures_hold_names_as_they_are(tmp_path: Path):
    numbers = np.arange(len(SHOWN_IN_FIGURES))
    pictures, masks = [np.zeros((8, 8, 3))] * len(numbers), torch.rand(len(numbers), 2, 2) > 0.5
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        confusion_figure(numbers, numbers, SHOWN_IN_FIGURES).savefig(tmp_path / "matrix.svg")
        figure(pictures, masks, SHOWN_IN_FIGURES, ["$ a"]).savefig(tmp_path / "explained.svg")
    for name in ("matrix", "explained"):
        root = ElementTree.parse(tmp_path / f"{name}.svg").getroot()
        texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
        for shown in SHOWN_IN_FIGURES:
            assert texts.count(shown) == (2 if name == "matrix" else 1), shown


def test_figures_of_controls_and_long_names_are_drawn_and_well_formed(tmp_path: Path):
    names = ["\x00\x1b[1m", "a\ufffeb", "bytes \udce9", "n" * 300, "W" * 300 + "2", "two\nlines"]
    numbers = np.arange(len(names))
    drawn = confusion_figure(numbers, numbers, names)
    drawn.savefig(tmp_path / "matrix.svg")  # warnings, such as of a layout without room, are errors
    texts = svg_texts(tmp_path / "matrix.svg")
    assert {r"\x00\x1b[1m", r"a\ufffeb", r"bytes \udce9", "two", "lines"} <= set(texts)
    labels = [label.get_text() for label in drawn.axes[0].get_xticklabels()]
    assert labels[3:5] == [shortened(names[3], 40), shortened(names[4], 40)]
    assert max(map(len, labels)) == 40
    assert labels[4].endswith("W2")
    assert drawn.axes[0].get_position().width > 0.2
    explained = figure([np.zeros((8, 8, 3))], torch.rand(1, 2, 2) > 0.5, ["n" * 3000], ["a\n\nb"])
    explained.savefig(tmp_path / "explained.svg")
    assert explained.axes[0].get_title().count("\n") < 8
    assert explained.axes[1].get_title() == "a\n\nb"
    assert max(explained.get_size_inches()) < 6


@pytest.mark.parametrize("name", ["猫の写真", "แมว", "고양이"])
def test_letters_that_no_font_has_are_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str):
    numbers = np.arange(2)
    with matplotlib.rc_context({"font.family": ["DejaVu Sans"]}), caplog.at_level(logging.WARNING):
        written = write_figures(tmp_path, {"matrix.png": lambda: confusion_figure(numbers, numbers, [name, "cat"])})
    assert written == ["matrix.png"]
    assert (tmp_path / "matrix.png").stat().st_size
    (message,) = caplog.messages
    assert message.startswith(f"matrix.png: no font of matplotlib has {' '.join(dict.fromkeys(name))}, ")


def test_other_warnings_of_drawing_are_not_hidden(tmp_path: Path):
    def draw() -> Figure:
        warnings.warn("too narrow", UserWarning, stacklevel=1)
        return Figure()

    with pytest.warns(UserWarning, match="too narrow"):
        write_figures(tmp_path, {"a.png": draw})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b", "a_b.png"),
        ("../../etc/passwd", ".._.._etc_passwd.png"),
        ("x\n\x00y", "x__y.png"),
        ("", "_.png"),
        ("back\\slash $x *|", "back\\slash $x *|.png"),
        ("חתול", "חתול.png"),
    ],
)
def test_file_names_keep_all_but_separators_and_controls(name: str, expected: str, tmp_path: Path):
    assert file_name(name, ".png") == expected
    (tmp_path / expected).touch()


@pytest.mark.parametrize("letter", ["n", "é", "猫", "🐈"])
def test_long_file_names_are_cut_between_letters_and_numbered(letter: str, tmp_path: Path):
    taken: list[str] = []
    for _ in range(3):
        taken.append(file_name(letter * 300, ".png", taken))
        (tmp_path / taken[-1]).touch()
    assert len(set(taken)) == 3
    assert taken[2].endswith("-3.png")
    assert set(taken[0].removesuffix(".png")) == {letter}


def test_file_names_that_differ_in_case_alone_are_numbered():
    assert file_name("CAT", ".png", ["cat.png", "cat-2.png"]) == "CAT-3.png"


@pytest.mark.parametrize(
    "name", ["---", "a\n---\nb", "- a: b #c", "*a", "&a !!x", "{{x}}", "\x1b\u202e\udcff", "null", "~"]
)
def test_metadata_of_cards_are_names_as_they_are(name: str, tmp_path: Path):
    facts = classifier_facts(name=name, dataset=name, label_names=[name, name + "|"], command=name)
    classifier_card(facts).save(tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.model_name == visible(name)
    assert card.data.eval_results[0].dataset_name == visible(name)
    assert visible(" ".join(name.split())) in text_of(card.text)


@pytest.mark.parametrize("name", ["it's", "a\nb", "\x1b[1m \\n ' \"", "$HOME `ls`"])
def test_words_of_commands_are_read_back_by_the_shell(name: str, run_python):
    assert "\n" not in shell_word(name)
    script = "import subprocess, sys; print(subprocess.check_output(['bash', '-c', sys.argv[1]]))"
    printed = run_python("-c", script, f"printf %s {shell_word(name)}").stdout
    assert printed.strip() == repr(name.encode())


def test_a_terminal_of_another_encoding_and_control_characters_fail_no_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    class Command:
        """Prints a name, then fails with it."""

        @staticmethod
        def run(arguments: list[str]) -> int:
            print("קובץ \udcff")
            raise ValueError("no \x1b[31m file")

    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(cli.importlib, "import_module", lambda *arguments: Command)
    assert cli.main(["models"]) == 1
    terminal.flush()
    assert terminal.buffer.getvalue() == rb"\u05e7\u05d5\u05d1\u05e5 \udcff" + b"\n"
    assert capsys.readouterr().err == "error: no \\x1b[31m file\n"
