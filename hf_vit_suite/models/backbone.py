"""Feature maps for dense prediction: the `AutoBackbone` mixin of every family."""

from collections.abc import Sequence

from torch import Tensor
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_outputs import BackboneOutput
from transformers.utils.generic import can_return_tuple

from .configuration_trunk import TrunkConfig


class TrunkBackbone(BackboneMixin):
    """Mixin of backbones: runs the encoder at `base_model_prefix` and returns the stages that `config` selects."""

    def __init__(self, config: TrunkConfig):
        super().__init__(config)
        self.num_features = [config.hidden_size] * (config.num_hidden_layers + 1)

    # transformers' properties ignore the config's default stage.
    @property
    def out_features(self) -> list[str]:
        """Names of the returned stages, from `config.out_features`."""
        return self.config.out_features

    @out_features.setter
    def out_features(self, out_features: list[str] | None) -> None:
        self.config.out_features = out_features

    @property
    def out_indices(self) -> list[int]:
        """Indices of the returned stages, from `config.out_indices`."""
        return self.config.out_indices

    @out_indices.setter
    def out_indices(self, out_indices: list[int] | tuple[int, ...] | None) -> None:
        self.config.out_indices = out_indices

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        attention_layers: Sequence[int] | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> BackboneOutput:
        """Computes feature maps.

        Args:
            pixel_values: `[batch, channels, height, width]`; sides are cropped to multiples of the patch size, as
                detectors resize to any size.
            output_attentions: As in `SuiteViTModel`, likewise `output_hidden_states`, `attention_layers` and, where
                the family's encoder takes it, `attention_mask`.

        Returns:
            `feature_maps`, one per stage of `out_features`: `[batch, hidden, rows, columns]`, or with
            `config.reshape_hidden_states=False` `[batch, tokens, hidden]`, prefix tokens included; normalised unless
            `config.apply_layernorm` is False. `hidden_states` and `attentions` if requested.

        Raises:
            ValueError: If images are missing, or a selected stage's block was removed from the model.
        """
        _, wanted = self.wanted_outputs(output_attentions, output_hidden_states)
        encoder = self.base_model
        kwargs["interpolate_pos_encoding"] = True
        outputs = encoder(
            pixel_values,
            output_attentions=output_attentions,
            output_hidden_states=True,
            attention_layers=attention_layers,
            return_dict=True,
            **kwargs,
        )
        states = outputs.hidden_states
        numbers = [self.config.stage_names.index(name) for name in self.out_features]
        if max(numbers) >= len(states):
            raise ValueError(
                f"out_features are {self.out_features}, and the model has {len(states) - 1} blocks: set "
                "config.num_hidden_layers to that, or other out_features"
            )
        maps = [states[number] for number in numbers]
        if self.config.apply_layernorm:
            maps = [encoder.norm(tokens) for tokens in maps]
        if self.config.reshape_hidden_states:
            size = self.config.patch_size
            grid = pixel_values.shape[-2] // size, pixel_values.shape[-1] // size
            patches = [tokens[:, self.config.num_prefix_tokens :] for tokens in maps]
            maps = [tokens.transpose(1, 2).unflatten(2, grid) for tokens in patches]  # (B, h * w, D) -> (B, D, h, w)
        returned = encoder.encoder.resolve_hidden_states(wanted)
        states = tuple(state if number in returned else None for number, state in enumerate(states))
        return BackboneOutput(
            feature_maps=tuple(maps), hidden_states=states if returned else None, attentions=outputs.attentions
        )
