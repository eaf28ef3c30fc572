"""Names of classes, files and models are data: no figure, table or card reads markup in them."""

import html
import json
import re
import warnings

import matplotlib
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hf_vit_suite.commands.predict import print_predictions
from hf_vit_suite.evaluation.plots import confusion_figure
from hf_vit_suite.explain import figure
from hf_vit_suite.hub import ClassifierFacts, PretrainedFacts, classifier_card, code, plain, pretrained_card

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


def test_table_of_predictions_has_names_as_they_are(capsys: pytest.CaptureFixture):
    labels = [{"label": name, "probability": 0.1} for name in NAMES if "\n" not in name]
    print_predictions([{"image": "[red]a[/red].png", "labels": labels}])
    printed = capsys.readouterr().out
    assert "[red]a[/red].png" in printed
    assert all(label["label"] in printed for label in labels)


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
