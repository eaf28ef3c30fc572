"""Any model with an image tower and a text tower, and their features of length 1."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    BatchEncoding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..opening import open_pretrained
from .features import best_device

# transformers' models that read a text at its last place, which they were trained to find filled up.
READ_FULL_LENGTH = ("siglip", "siglip2")


@dataclass(frozen=True)
class TwoTowers:
    """A model that compares images with texts, the suite's CLIP or transformers'.

    Args:
        model: In evaluation mode.
        image_processor: Of its images.
        tokenizer: Of its texts.
    """

    model: PreTrainedModel
    image_processor: Callable
    tokenizer: PreTrainedTokenizerBase

    @property
    def scale(self) -> float:
        """Factor of the cosines, the inverse temperature."""
        return self.model.logit_scale.exp().item()

    @torch.inference_mode()
    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """`[images, channels, height, width]` on the model's device -> `[images, projection]` of length 1."""
        return F.normalize(self.model.get_image_features(pixel_values=pixel_values).pooler_output.float(), dim=-1)

    def tokenize(self, texts: Sequence[str]) -> BatchEncoding:
        """Texts -> the text tower's arguments on the model's device; longer ones than the model reads are cut."""
        config = self.model.config
        return self.tokenizer(
            list(texts),
            padding="max_length" if config.model_type in READ_FULL_LENGTH else True,
            truncation=True,
            max_length=config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.model.device)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str], batch_size: int = 64, bf16: bool = False) -> Tensor:
        """Texts -> `[texts, projection]` of length 1, on the CPU; longer ones than the model reads are cut."""
        device = self.model.device
        features = []
        for start in tqdm(range(0, len(texts), batch_size), "texts", leave=False, disable=None):
            tokens = self.tokenize(texts[start : start + batch_size])
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                pooled = self.model.get_text_features(**tokens).pooler_output
            features.append(F.normalize(pooled.float(), dim=-1).cpu())
        return torch.cat(features)


def open_two_towers(name: str) -> TwoTowers:
    """Opens a CLIP, on an accelerator where there is one.

    Args:
        name: Folder or Hub name.

    Raises:
        ValueError: If there is no such model, or it compares no images with texts.
    """
    model = open_pretrained(AutoModel, name)
    if not (hasattr(model, "get_text_features") and hasattr(model, "logit_scale")):
        raise ValueError(f"{name} compares no images with texts: it is a {model.config.model_type}")
    return TwoTowers(
        model.eval().to(best_device()),
        open_pretrained(AutoImageProcessor, name),
        open_pretrained(AutoTokenizer, name),
    )
