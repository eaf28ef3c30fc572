"""Labels, image processor and tokenizer, which a pipeline needs besides the weights."""

import gzip
import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torchvision
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPProcessor,
    CLIPTokenizer,
    PretrainedConfig,
    ViTImageProcessor,
)

from hf_vit_suite.models.configuration_clip import SuiteCLIPConfig

logger = logging.getLogger(__name__)

IMAGE_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
PAPERS_TOKENIZER = "openai/clip-vit-base-patch32"
PAPERS_VOCABULARY = 49408
# Number of learned merges in the paper's vocabulary. The rest are 256 bytes, each with and without the end of a word,
# and the start and end of text.
PAPERS_MERGES = PAPERS_VOCABULARY - 2 * 256 - 2
IMAGENET_LABELS, IMAGENET_21K_LABELS = 1000, 21843


def label_fields(config: PretrainedConfig, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Label names for a classifier whose labels are numbered only; empty otherwise.

    Args:
        config: Configuration of the model.
        settings: Content of the configuration file next to the weights.
    """
    if not config.num_labels or config.id2label.get(0) != "LABEL_0":
        return {}
    names = label_names(config.num_labels, settings)
    return {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}} if names else {}


def label_names(count: int, settings: Mapping[str, Any]) -> list[str]:
    """Label names from timm's settings, else ImageNet's if the number of labels matches; empty otherwise."""
    own = settings.get("label_names") or []
    if len(own) == count:
        return own
    if count == IMAGENET_LABELS:
        return torchvision.models.get_model_weights("resnet50").DEFAULT.meta["categories"]
    if count == IMAGENET_21K_LABELS and importlib.util.find_spec("timm"):
        from timm.data import ImageNetInfo

        return ImageNetInfo("imagenet21k_goog").label_descriptions()
    return []


def write_processors(output_dir: Path, config: PretrainedConfig, fields: dict[str, Any], folder: Path | None) -> None:
    """Writes the image processor and, for CLIP, the tokenizer; uses the source's own if it has them.

    Args:
        output_dir: Folder to write to.
        config: Configuration of the model.
        fields: Fields of the image processor, from the layout.
        folder: Folder of the source; `None` for a single file.
    """
    is_clip = isinstance(config, SuiteCLIPConfig)
    if folder is not None and any((folder / file).is_file() for file in IMAGE_PROCESSOR_FILES):
        image_processor = AutoImageProcessor.from_pretrained(folder)
    else:
        image_processor = (CLIPImageProcessor if is_clip else ViTImageProcessor)(**fields)
    tokenizer = clip_tokenizer(config, folder) if is_clip else None
    if tokenizer is None:
        image_processor.save_pretrained(output_dir)
    else:
        CLIPProcessor(image_processor, tokenizer).save_pretrained(output_dir)
        image_processor.save_pretrained(output_dir)


def clip_tokenizer(config: SuiteCLIPConfig, folder: Path | None) -> CLIPTokenizer | None:
    """The source's tokenizer, else the paper's from open_clip's package or the Hub; `None` if it is unavailable."""
    length = config.text_config.max_position_embeddings
    if folder is not None and any((folder / file).is_file() for file in ("tokenizer.json", "vocab.json")):
        return AutoTokenizer.from_pretrained(folder)
    if config.text_config.vocab_size != PAPERS_VOCABULARY:
        logger.warning("no tokenizer was written: the vocabulary is not CLIP's, and none lies beside the weights")
        return None
    if package := importlib.util.find_spec("open_clip"):
        merges = Path(package.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
        return papers_tokenizer(gzip.decompress(merges.read_bytes()).decode(), length)
    try:
        return CLIPTokenizer.from_pretrained(PAPERS_TOKENIZER, model_max_length=length)
    except (OSError, ValueError):
        logger.warning("no tokenizer was written: install open_clip_torch, or let the Hub be reached for it")
        return None


def papers_tokenizer(text: str, length: int) -> CLIPTokenizer:
    """Builds the paper's tokenizer from its list of merges.

    Args:
        text: Content of the list: a header line, then one pair of tokens per line, the most frequent first.
        length: Maximum number of tokens per text.
    """
    merges = [tuple(line.split()) for line in text.split("\n")[1 : PAPERS_MERGES + 1]]
    characters = sorted(ByteLevel.alphabet())
    tokens = [
        *characters,
        *(character + "</w>" for character in characters),
        *("".join(pair) for pair in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)}, merges=merges, model_max_length=length
    )
