"""DINO's .pth (arXiv 2104.14294): backbones, full checkpoints, and linear classifiers in separate files.

Source: https://github.com/facebookresearch/dino, `vision_transformer.py`, `main_dino.py` and `eval_linear.py`.
"""

from hf_vit_suite.models.configuration_dino import SuiteDINOConfig
from hf_vit_suite.models.configuration_vit import SuiteViTConfig
from hf_vit_suite.models.modeling_dino import SuiteDINOForPreTraining
from hf_vit_suite.models.modeling_vit import SuiteViTForImageClassification, SuiteViTModel

from ..layout import (
    HEAD,
    Evidence,
    Form,
    Layout,
    cropped,
    encoder_fields,
    has_plain_encoder,
    has_published_blocks,
    trunk_rules,
)
from ..rules import SAME, Change, Rule, chained, permuted, rename, reshaped, within

TEACHER = "teacher.backbone."
# Prefixes of the student: with DistributedDataParallel's, which export writes, then without.
STUDENTS = ("student.module.", "student.")
LINEAR = f"{HEAD}linear."


def backbone(config: SuiteViTConfig) -> list[Rule]:
    """Rules of the backbone."""
    return [*trunk_rules(), rename("norm.{parameter}", "norm.{parameter}")]


# Names of the gain and direction in torch's weight norm: those of DINO's files, which export writes, then those since
# torch 2.0.
GAINS = ("last_layer.weight_g", "last_layer.parametrizations.weight.original0")
DIRECTIONS = ("last_layer.weight_v", "last_layer.parametrizations.weight.original1")


def head_rules(theirs: str, ours: str, config: SuiteDINOConfig) -> list[Rule]:
    """Rules of a projection head."""
    layers = [
        rename("mlp.{layer}.{parameter}", "layers.{layer}.{parameter}"),
        *[rename(name, "prototypes.gain") for name in GAINS],
        *[rename(name, "prototypes.direction") for name in DIRECTIONS],
    ]
    batch_norms = [
        rename(f"mlp.{{layer}}.{name}", f"layers.{{layer}}.{name}")
        for name in ("running_mean", "running_var", "num_batches_tracked")
    ]
    return within([*layers, *(batch_norms if config.head_batch_norm else [])], theirs, ours)


def full(config: SuiteDINOConfig) -> list[Rule]:
    """Rules of student, teacher, heads and center."""
    return [
        *within(backbone(config), TEACHER, "vit."),
        *[rule for prefix in STUDENTS for rule in within(backbone(config), f"{prefix}backbone.", "student.")],
        *head_rules("teacher.head.", "teacher_head.", config),
        *[rule for prefix in STUDENTS for rule in head_rules(f"{prefix}head.", "student_head.", config)],
        rename("dino_loss.center", "center.logits", reshaped((1, -1), (-1,))),
    ]


def beside(config: SuiteViTConfig) -> Change:
    """The published code interleaves class token and patch mean channel by channel; ours concatenates them."""
    if not config.classifier_patch_mean:
        return SAME
    labels, hidden = config.num_labels, config.hidden_size
    return chained(
        reshaped((labels, 2 * hidden), (labels, hidden, 2)),
        permuted(0, 2, 1),
        reshaped((labels, 2, hidden), (labels, 2 * hidden)),
    )


def classifier(config: SuiteViTConfig) -> list[Rule]:
    """Rules of the backbone and its linear classifier."""
    return [
        *within(backbone(config), ours="vit."),
        rename(f"{LINEAR}weight", "classifier.weight", beside(config)),
        rename(f"{LINEAR}bias", "classifier.bias"),
    ]


def backbone_config(evidence: Evidence) -> SuiteViTConfig:
    """Configuration of the backbone."""
    return SuiteViTConfig(**encoder_fields(evidence), position_interpolation_offset=0.1, num_labels=0)


def classifier_config(evidence: Evidence) -> SuiteViTConfig:
    """Configuration of the classifier, whose input is 1 or 4 layers' class tokens, or class token and patch mean."""
    labels, width = evidence.shapes[f"{LINEAR}weight"]
    fields = encoder_fields(evidence)
    parts, rest = divmod(width, fields["hidden_size"])
    if rest or parts not in (1, 2, 4):
        raise ValueError(f"a classifier of {width} inputs does not belong to a backbone {fields['hidden_size']} wide")
    return SuiteViTConfig(
        **fields,
        position_interpolation_offset=0.1,
        classifier_layers=4 if parts == 4 else 1,
        classifier_patch_mean=parts == 2,
        num_labels=labels,
    )


def full_config(evidence: Evidence) -> SuiteDINOConfig:
    """Configuration of backbone and head; shapes don't show a learned gain, so it is assumed for widths below 768."""
    shapes = {name.removeprefix(TEACHER): shape for name, shape in evidence.shapes.items() if name.startswith(TEACHER)}
    (direction,) = [name for name in DIRECTIONS if evidence.has(f"teacher.head.{name}")]
    prototypes, bottleneck = evidence.shapes[f"teacher.head.{direction}"]
    linear = [
        name
        for name, shape in evidence.shapes.items()
        if name.startswith("teacher.head.mlp.") and name.endswith(".weight") and len(shape) == 2
    ]
    fields = encoder_fields(evidence._replace(shapes=shapes))
    return SuiteDINOConfig(
        **fields,
        num_prototypes=prototypes,
        head_bottleneck_size=bottleneck,
        head_num_layers=len(linear),
        head_hidden_size=evidence.shapes["teacher.head.mlp.0.weight"][0],
        head_batch_norm=evidence.has("teacher.head.mlp.1.running_mean"),
        head_learned_gain=fields["hidden_size"] < 768,
        num_labels=0,
    )


def is_backbone(evidence: Evidence) -> bool:
    """Whether a torch file has a backbone without a prefix and without `head.weight`, which only DINO's .pth have."""
    return (
        evidence.kind == "torch"
        and not evidence.root
        and has_plain_encoder(evidence)
        and evidence.has("norm.weight")
        and not evidence.has("head.weight")
    )


def is_full(evidence: Evidence) -> bool:
    """Whether a file has student, teacher and center, and no separate classifier continues from the teacher."""
    has_student = any(evidence.has(f"{prefix}backbone.cls_token") for prefix in STUDENTS)
    return has_student and has_plain_encoder(evidence, TEACHER) and not evidence.has(f"{LINEAR}weight")


def is_plain(config: SuiteViTConfig) -> bool:
    """Whether a model is a plain vision transformer, without later additions such as LayerScale or registers."""
    return (
        has_published_blocks(config)
        and config.pooling == "cls"
        and config.representation_size is None
        and config.mlp_type == "gelu"
        and config.layer_scale_init_value is None
        and not (config.has_mask_token or config.num_register_tokens or config.use_distillation_token)
    )


LAYOUT = Layout(
    name="dino",
    forms=(
        Form(
            name="full checkpoint",
            model=SuiteDINOForPreTraining,
            recognises=is_full,
            config=full_config,
            rules=full,
            holds=lambda config: is_plain(config) and not config.patch_loss_weight,
            is_nested=True,
        ),
        Form(
            name="classifier",
            model=SuiteViTForImageClassification,
            recognises=lambda evidence: is_backbone(evidence) and evidence.has(f"{LINEAR}weight"),
            config=classifier_config,
            rules=classifier,
            holds=is_plain,
            head_root="state_dict.module.",
        ),
        Form(
            name="backbone",
            model=SuiteViTModel,
            recognises=lambda evidence: is_backbone(evidence),
            config=backbone_config,
            rules=backbone,
            holds=is_plain,
        ),
    ),
    image_processor=lambda config, evidence: cropped(config),
)
