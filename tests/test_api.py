"""The Python API as a notebook calls it: finetune, pretrain, evaluate, predict."""

import subprocess
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from recipes import QUICK, VIT
from references_of_training import make_colours, report, weights

import hf_vit_suite
from hf_vit_suite.options import as_call

TINY = {"preset": "vit_tiny_patch16_224", "config_overrides": VIT, **QUICK, "max_steps": 30, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of three easy classes."""
    return make_colours(tmp_path_factory.mktemp("colours") / "colours", images_a_class=30)


@pytest.fixture(scope="module")
def classifier(colours: Path, tmp_path_factory: pytest.TempPathFactory):
    """The result of fine-tuning on them."""
    return hf_vit_suite.finetune(dataset=str(colours), output_dir=tmp_path_factory.mktemp("api") / "out", **TINY)


def test_result_is_evaluated_predicts_and_is_trained_on(classifier, colours: Path, tmp_path: Path):
    measured = hf_vit_suite.evaluate("classification", classifier, dataset=colours, output_dir=tmp_path / "measured")
    assert measured.metrics["accuracy"] == pytest.approx(classifier.metrics["test"]["accuracy"])
    assert measured.summary.startswith(f"accuracy {measured.metrics['accuracy']:.4f}")
    image = Image.open(colours / "green" / "0.png")
    by_object, by_path, unreadable = hf_vit_suite.predict(
        classifier, [image, colours / "green" / "0.png", "gone.png"], top_k=1
    )
    assert by_object["labels"] == by_path["labels"]
    assert (by_object["image"], len(by_path["labels"])) == (0, 1)
    assert "gone.png is no readable image" in unreadable["error"]
    (again,) = hf_vit_suite.predict(measured, image, top_k=1)  # of the model that was measured
    assert again["labels"][0]["label"] == by_object["labels"][0]["label"]
    assert again["labels"][0]["probability"] == pytest.approx(by_object["labels"][0]["probability"], rel=1e-4)
    assert hf_vit_suite.predict(classifier, [np.zeros((4, 4, 3))])[0]["image"] == 0
    probe = hf_vit_suite.finetune(
        dataset=colours, model=classifier, linear_probe=True, output_dir=tmp_path / "probe", **QUICK, max_steps=3
    )
    before, after = weights(classifier.output_dir), weights(probe.output_dir)
    assert all(torch.equal(after[name], weight) != ("classifier" in name) for name, weight in before.items())


def test_pretrained_encoder_is_measured(colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    overrides = VIT | {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    encoder = hf_vit_suite.pretrain("mae", dataset=colours, config_overrides=overrides, **QUICK, max_steps=2)
    assert encoder.output_dir == Path("outputs/mae")
    measured = hf_vit_suite.evaluate("knn", encoder, dataset=colours, pooling="mean")
    assert measured.output_dir == Path("outputs/evaluate-knn")
    assert report(measured.output_dir)["metrics"]["10"]["accuracy"] == measured.metrics[10]["accuracy"]


class Torch(torch.utils.data.Dataset):
    """The same images as a torch data set."""

    classes = ("blue", "green", "red")

    def __init__(self, folder: Path):
        self.paths = sorted(folder.rglob("*.png"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[Image.Image, int]:
        path = self.paths[number]
        return Image.open(path).convert("RGB"), self.classes.index(path.parent.name)


def test_objects_train_to_the_weights_that_their_files_give(colours: Path, tmp_path: Path):
    loaded = datasets.load_dataset("imagefolder", data_dir=str(colours))
    forms = {"folder": str(colours), "splits": loaded, "rows": loaded["train"], "torch": Torch(colours)}
    order = [int(np.asarray(row["image"]).sum()) for row in loaded["train"]]
    assert order == [int(np.asarray(image).sum()) for image, _ in Torch(colours)]
    found = {}
    for name, data in forms.items():
        result = hf_vit_suite.finetune(dataset=data, output_dir=tmp_path / name, **TINY | {"max_steps": 3})
        assert result.model.config.id2label == {0: "blue", 1: "green", 2: "red"}
        found[name] = weights(result.output_dir)
    for name in ("splits", "rows", "torch"):
        for key, weight in found["folder"].items():
            torch.testing.assert_close(found[name][key], weight, rtol=1e-5, atol=1e-6, msg=f"{name}: {key}")
    assert "dataset=&lt;Torch&gt;" in (tmp_path / "torch" / "README.md").read_text().replace("<", "&lt;").replace(
        ">", "&gt;"
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hf_vit_suite.pretrain("mea"), "no pretraining method is named 'mea': choose mae, dino, clip"),
        (lambda: hf_vit_suite.evaluate("kn", "m"), "no evaluation is named 'kn': choose knn, linear"),
        (
            lambda: hf_vit_suite.evaluate("knn", "m", poolin="cls"),
            r"unknown arguments: poolin: did you mean pooling\?",
        ),
        (lambda: hf_vit_suite.evaluate("retrieval", "m"), "evaluate retrieval needs dataset"),
        (
            lambda: hf_vit_suite.evaluate("knn", torch.nn.Identity()),
            "a folder, a Hub name or a result, got a Identity",
        ),
        (lambda: hf_vit_suite.evaluate("classification", "m", split="tset"), "no split is named 'tset': choose test"),
        (lambda: hf_vit_suite.evaluate("knn", "m", random_weights="False"), "random_weights must be True or False"),
        (lambda: hf_vit_suite.finetune(learning_rate="1e-3"), "learning_rate must be a number, got '1e-3'"),
        (lambda: hf_vit_suite.finetune(max_steps=2.5), "max_steps must be an integer, got 2.5"),
        (lambda: hf_vit_suite.finetune(distillation="sotf"), "no distillation is named 'sotf': choose hard, soft"),
        (lambda: hf_vit_suite.finetune(early_stopping_patience=True), "early_stopping_patience must be an integer"),
        (lambda: hf_vit_suite.predict("m", [], top_k=0), "top_k must be at least 1, got 0"),
        (lambda: hf_vit_suite.evaluate("zero-shot", "m", templates=[]), "give at least one template"),
        (
            lambda: hf_vit_suite.evaluate("zero-shot", "m", templates="a dog"),
            "label's name goes, got 'a dog'",
        ),
        (lambda: hf_vit_suite.finetune(datset="x"), r"unknown arguments: datset: did you mean dataset\?"),
    ],
)
def test_wrong_calls_are_refused_in_one_line(call, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_call_is_shown_as_source_without_tokens_and_objects():
    shown = as_call("f", "mae", dataset=Torch, path=Path("a/b"), hub_token="hf_x", rate=1e-3, names=["a"], none=None)
    assert shown == "f('mae', dataset=<type>, path='a/b', rate=0.001, names=['a'])"
    long = as_call("finetune", **{f"option_{number}": "x" * 20 for number in range(5)})
    assert long.splitlines()[0] == "finetune("
    assert long.splitlines()[1] == "    option_0='xxxxxxxxxxxxxxxxxxxx',"


def test_notebook_trains_in_a_kernel(colours: Path, run_python, tmp_path: Path):
    """A cell in a real kernel: its card shows the call, not the kernel's command line."""
    script = f"""
import nbformat
from nbclient import NotebookClient
cell = '''import hf_vit_suite
result = hf_vit_suite.finetune(
    dataset={str(colours)!r}, preset="vit_tiny_patch16_224", config_overrides={VIT!r}, output_dir="out", max_steps=2,
    report_to="none", use_cpu=True, disable_tqdm=True)
print(sorted(result.metrics))'''
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
NotebookClient(notebook, timeout=300).execute()
print([output.text for output in notebook.cells[0].outputs if output.get("name") == "stdout"][-1])
"""
    result: subprocess.CompletedProcess = run_python("-c", script)
    assert "['test', 'validation']" in result.stdout
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# called from Python\nhf_vit_suite.finetune(" in card
    assert "ipykernel" not in card
