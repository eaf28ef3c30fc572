"""Every recipe in a tiny form: by its entry here a recipe joins `training/test_recipes.py`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from references_of_training import make_colours

VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 16,
    "patch_size": 4,
}
DECODER = {
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}
HEAD = {"head_hidden_size": 32, "head_bottleneck_size": 16, "num_prototypes": 64}
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 12,
}
TRUNK_CODE = {
    "backbone.py",
    "configuration_trunk.py",
    "configuration_vit.py",
    "embedding.py",
    "pretrained.py",
    "transformer.py",
}
ALWAYS = {"README.md", "config.json", "curves.png", "metrics.json", "model.safetensors"}
QUICK = {
    "per_device_train_batch_size": 8,
    "logging_steps": 1,
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
}


def overrides(**fields: Any) -> str:
    """Config fields as `--config_overrides` takes them."""
    return ",".join(f"{name}={value}" for name, value in fields.items())


@dataclass(frozen=True)
class TinyRecipe:
    """A recipe that trains in a second.

    Args:
        name: Its key in `RECIPES`.
        verb: The command, or the function of the Python API and its argument.
        options: By name, for the command and for the Python call.
        results: Files of the finished folder, beside `ALWAYS` and `TRUNK_CODE`.
        auto_class: Opens the folder with the model that was trained.
        pipeline_tag: The task on the model card.
        learning_rate: Large enough to move every weight.
    """

    name: str
    verb: tuple[str, ...]
    options: dict[str, Any]
    results: set[str]
    auto_class: str
    pipeline_tag: str
    learning_rate: float = 0.01

    @property
    def all_results(self) -> set[str]:
        """Files of the finished folder."""
        return ALWAYS | TRUNK_CODE | self.results

    def data(self, folder: Path) -> Path:
        """Makes 36 images, captioned for CLIP."""
        make_colours(folder, images_a_class=12)
        return caption(folder) if self.name == "clip" else folder

    def command(self, **options: Any) -> list[str]:
        """The command line with further options."""
        arguments = list(self.verb)
        for name, value in (QUICK | self.options | options).items():
            arguments += [f"--{name}", *([str(item) for item in value] if isinstance(value, list) else [str(value)])]
        return arguments


def caption(folder: Path) -> Path:
    """Adds two captions to each image of class folders."""
    with open(folder / "metadata.jsonl", "w") as file:
        for path in sorted(folder.rglob("*.png")):
            texts = [f"a {path.parent.name} picture, number {path.stem}", f"{path.parent.name} {path.stem}"]
            file.write(json.dumps({"file_name": str(path.relative_to(folder)), "text": texts}) + "\n")
    return folder


TINY_RECIPES = [
    TinyRecipe(
        "finetune",
        ("finetune",),
        {"preset": "vit_tiny_patch16_224", "config_overrides": overrides(**VIT)},
        {"attention.png", "confusion_matrix.png", "modeling_vit.py", "preprocessor_config.json"},
        "AutoModelForImageClassification",
        "image-classification",
    ),
    TinyRecipe(
        "mae",
        ("pretrain", "mae"),
        {"config_overrides": overrides(**VIT, **DECODER)},
        {"configuration_mae.py", "modeling_mae.py", "preprocessor_config.json", "reconstruction.png"},
        "AutoModelForPreTraining",
        "image-feature-extraction",
    ),
    TinyRecipe(
        "dino",
        ("pretrain", "dino"),
        {"config_overrides": overrides(**VIT, **HEAD), "local_crops": 3, "drop_path_rate": 0.0},
        {
            "attention.png",
            "configuration_dino.py",
            "modeling_dino.py",
            "modeling_vit.py",
            "preprocessor_config.json",
            "prototypes.py",
        },
        "AutoModelForPreTraining",
        "image-feature-extraction",
    ),
    TinyRecipe(
        "clip",
        ("pretrain", "clip"),
        {
            "train_tokenizer": True,
            "config_overrides": overrides(
                **{f"vision_config.{name}": value for name, value in VIT.items()},
                **{f"text_config.{name}": value for name, value in TEXT.items()},
                projection_dim=16,
            ),
        },
        {
            "clip_towers.py",
            "configuration_clip.py",
            "contrastive.py",
            "gradient_cache.py",
            "modeling_clip.py",
            "modeling_vit.py",
            "processor_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        },
        "AutoModel",
        "zero-shot-image-classification",
    ),
]
