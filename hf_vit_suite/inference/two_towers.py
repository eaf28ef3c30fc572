"""Any model with an image tower and a text tower, and their L2-normalised features."""

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

from .opening import best_device, open_pretrained

# transformers' models that read the last token, and were trained with every text padded to the full length.
READ_FULL_LENGTH = ("siglip", "siglip2")


@dataclass(frozen=True)
class TwoTowers:
    """A model that compares images with texts, the suite's CLIP or transformers'.

    Args:
        model: In evaluation mode.
        image_processor: Prepares its images.
        tokenizer: Prepares its texts.
    """

    model: PreTrainedModel
    image_processor: Callable
    tokenizer: PreTrainedTokenizerBase

    @property
    def scale(self) -> float:
        """Inverse temperature, by which cosines are multiplied."""
        return self.model.logit_scale.exp().item()

    @torch.inference_mode()
    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """`[images, channels, height, width]` on the model's device -> L2-normalised `[images, projection]`."""
        return F.normalize(self.model.get_image_features(pixel_values=pixel_values).pooler_output.float(), dim=-1)

    def tokenize(self, texts: Sequence[str]) -> BatchEncoding:
        """Texts -> the text tower's arguments on the model's device, truncated to the length that the model reads."""
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
        """Texts -> L2-normalised `[texts, projection]` on the CPU, truncated to the length that the model reads."""
        device = self.model.device
        features = []
        for start in tqdm(range(0, len(texts), batch_size), "texts", leave=False, disable=None):
            tokens = self.tokenize(texts[start : start + batch_size])
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                pooled = self.model.get_text_features(**tokens).pooler_output
            features.append(F.normalize(pooled.float(), dim=-1).cpu())
        return torch.cat(features)


def open_two_towers(name: str) -> TwoTowers:
    """Opens a CLIP, on an accelerator if there is one.

    Args:
        name: Folder or Hub name.

    Raises:
        ValueError: If there is no such model, or it does not compare images with texts.
    """
    model = open_pretrained(AutoModel, name)
    if not (hasattr(model, "get_text_features") and hasattr(model, "logit_scale")):
        raise ValueError(f"{name} compares no images with texts: it is a {model.config.model_type}")
    return TwoTowers(
        model.eval().to(best_device()),
        open_pretrained(AutoImageProcessor, name),
        open_pretrained(AutoTokenizer, name),
    )
