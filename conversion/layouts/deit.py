"""DeiT's .pth (arXiv 2012.12877), and DeiT-III's (arXiv 2204.07118).

Source: https://github.com/facebookresearch/deit, `models.py` and `models_v2.py`. The names are timm's, except
DeiT-III's names of LayerScale.
"""

from hf_vit_suite.models.configuration_vit import SuiteViTConfig
from hf_vit_suite.models.modeling_vit import SuiteViTForImageClassification

from ..layout import Evidence, Form, Layout, cropped, has_published_blocks, layer_scale_rules
from ..rules import Rule, within
from . import timm


def rules(config: SuiteViTConfig, has_class_position: bool) -> list[Rule]:
    """timm's rules, preceded by DeiT-III's names of LayerScale."""
    own = within(layer_scale_rules("gamma_{}"), ours="vit.")
    return [*own, *timm.classifier_rules(config, has_class_position)]


def config(evidence: Evidence) -> SuiteViTConfig:
    """timm's configuration, but position embeddings are resized without antialiasing."""
    found = timm.config(evidence)
    found.position_interpolation_antialias = False
    return found


def form(is_third: bool) -> Form:
    """Form of DeiT or, if `is_third`, of DeiT-III."""
    return Form(
        name="DeiT-III classifier" if is_third else "classifier",
        model=SuiteViTForImageClassification,
        recognises=lambda evidence: (
            evidence.root == "model."
            and evidence.has("cls_token", "head.weight", "norm.weight", "pos_embed")
            and evidence.has("blocks.0.gamma_1") == is_third
        ),
        config=config,
        rules=lambda config: rules(config, has_class_position=not is_third),
        holds=lambda config: (
            timm.holds(config, has_class_position=True)
            and has_published_blocks(config)
            and config.representation_size is None
            and config.pooling == "cls"
            and not config.has_mask_token
            and config.mlp_type == "gelu"
            and (config.layer_scale_init_value is not None) == is_third
        ),
        root="model.",
    )


LAYOUT = Layout(
    name="deit",
    forms=(form(is_third=False), form(is_third=True)),
    image_processor=lambda config, evidence: cropped(
        config,
        share=0.875 if config.image_height_width[0] < 384 and config.layer_scale_init_value is None else 1.0,
    ),
)
