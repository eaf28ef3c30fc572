"""Base of every family's models: capabilities, and folders that each of the family's classes opens."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

from .configuration_trunk import SuiteConfig

logger = logging.get_logger(__name__)


class SuitePreTrainedModel(PreTrainedModel):
    """Base of every family's `PreTrainedModel`.

    The encoder is called `vit` in every class with a head, so that families can exchange its weights. Parameters that
    a constructor freezes (a teacher, fixed positions) stay frozen however the model is loaded. A caller who makes them
    trainable one by one still gets no gradient: forward detaches them.
    """

    base_model_prefix = "vit"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _input_embed_layer = "patch_embeddings"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Embeddings", "Block"]  # noqa: RUF012 (transformers declares it as a plain list)
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    # Losses are means over a batch, so the Trainer divides them by its accumulation steps.
    accepts_loss_kwargs = False
    _auto_map: dict[str, str]  # set by `join_auto_classes`

    def __init__(self, config: SuiteConfig, *args, **kwargs):
        config.check()  # a field may have changed since the config was made
        super().__init__(config, *args, **kwargs)

    def post_init(self) -> None:
        """Remembers which parameters the constructor froze, then does transformers' part."""
        self._frozen_names = {name for name, weight in self.named_parameters() if not weight.requires_grad}
        super().post_init()

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        super()._initialize_weights(module, is_custom_code)
        # transformers' loader replaces each parameter that it reads by a trainable one, then calls this.
        if module is self:
            self.freeze_fixed_parameters()

    def freeze_fixed_parameters(self) -> None:
        """Freezes again what the constructor froze."""
        for name, weight in self.named_parameters():
            if name in self._frozen_names:
                weight.requires_grad_(False)

    def requires_grad_(self, requires_grad: bool = True) -> "SuitePreTrainedModel":
        """As torch's, but the parameters that the constructor froze stay frozen."""
        super().requires_grad_(requires_grad)
        self.freeze_fixed_parameters()
        return self

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        """Saves weights, config and code, so that every Auto class of the family opens the folder anywhere."""
        self.config.auto_map = {**self._auto_map, **(getattr(self.config, "auto_map", None) or {})}
        super().save_pretrained(save_directory, *args, **kwargs)

    def check_inputs(self, unused: dict, **inputs: Tensor | None) -> None:
        """Checks the inputs of a call, and warns once of keywords that the model ignores.

        As transformers' models do, it accepts keywords of other models, such as `input_ids` or `position_ids`.

        Args:
            unused: Keywords that no argument takes; those that are `None` are not reported.
            **inputs: Required inputs.

        Raises:
            ValueError: If an input is missing.
        """
        if missing := [name for name, value in inputs.items() if value is None]:
            raise ValueError(f"{type(self).__name__} needs {' and '.join(missing)}: pass {missing[0]}=...")
        ignored = ", ".join(sorted(name for name, value in unused.items() if value is not None))
        if ignored and not torch.compiler.is_compiling():
            logger.warning_once(f"{type(self).__name__} has no use for {ignored}: ignored")

    def wanted_outputs(
        self, output_attentions: bool | None, output_hidden_states: bool | int | Sequence[int] | None
    ) -> tuple[bool, bool | int | Sequence[int]]:
        """The requested outputs of a call: its own arguments, else the config's."""
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return output_attentions, output_hidden_states


def join_auto_classes(
    classes: tuple[tuple[str, type[SuitePreTrainedModel]], ...], others: tuple[type[SuitePreTrainedModel], ...] = ()
) -> None:
    """Makes a family's saved folders open through its Auto classes wherever they are copied.

    Args:
        classes: Names of transformers' Auto classes and the models that they open, for each of the family's configs.
        others: Models without an Auto class; their folders open as the other models of their config.
    """
    for auto_class, model in classes:
        model.register_for_auto_class(auto_class)
    for model in others:
        model._auto_class = model.__name__  # so that its code is saved too
    for model in (*(model for _, model in classes), *others):
        # transformers alone would name only the class that was saved.
        model._auto_map = {
            name: f"{other.__module__.rpartition('.')[2]}.{other.__name__}"
            for name, other in classes
            if other.config_class is model.config_class
        }
