"""Images a second that one thread prepares for training, beside lightly, timm and torchvision, in turn in one process.

    python benchmarks/data.py [--images 16] [--rounds 5]

Every contender starts from the bytes of the same JPEG files of 500 x 375 pixels. A round times each once, in turn, so
that other load affects all of them. The ratio is a peer's median time over ours (above 1: ours is faster). `bare` of
the features is the model alone on tensors that are ready; its ratio is the share of its speed that is left when
28 x 28 pictures are decoded and prepared for it.
"""

import argparse
import io
from collections.abc import Callable

import numpy as np
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from lightly.transforms import DINOTransform
from measuring import median_milliseconds
from PIL import Image
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from timm.data import create_transform
from torchvision.transforms import InterpolationMode, v2
from transformers import ViTImageProcessor

from hf_vit_suite import SuiteViTModel, preset_config
from hf_vit_suite.data import ImageTransform, decode_image, multi_crop_transform, training_transform
from hf_vit_suite.evaluation.features import FeatureExtractor, extract_features

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BICUBIC = InterpolationMode.BICUBIC
PROCESSOR = ViTImageProcessor(image_mean=MEAN, image_std=STD, resample=3)
DIGITS = 512


def photograph(random: np.random.Generator) -> bytes:
    """A JPEG file with large coloured areas and fine grain."""
    areas = Image.fromarray(random.integers(0, 255, (24, 32, 3), dtype=np.uint8)).resize((500, 375), Image.BICUBIC)
    pixels = np.asarray(areas) + random.normal(0, 8, (375, 500, 3))
    return encoded(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), "JPEG", quality=90)


def encoded(image: Image.Image, file_format: str, **options) -> bytes:
    """An image file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def opened(content: bytes) -> Image.Image:
    """Decodes as torchvision's folders do."""
    return Image.open(io.BytesIO(content)).convert("RGB")


def paper_dino() -> Callable[[Image.Image], list[torch.Tensor]]:
    """DINO's crops on Pillow's images, written from the paper (arXiv 2104.14294, section 3.2; BYOL, appendix B)."""

    def crop(size: int, scale: tuple[float, float], blur: float, solarize: float) -> v2.Compose:
        return v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=scale, interpolation=BICUBIC),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
                v2.RandomGrayscale(p=0.2),
                v2.RandomApply([v2.GaussianBlur(9, (0.1, 2.0))], p=blur),
                v2.RandomSolarize(128, p=solarize),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    first, second = crop(224, (0.4, 1.0), 1.0, 0.0), crop(224, (0.4, 1.0), 0.1, 0.2)
    local = crop(96, (0.05, 0.4), 0.5, 0.0)
    return lambda image: [first(image), second(image), *(local(image) for _ in range(8))]


def torchvision_mae() -> Callable[[Image.Image], torch.Tensor]:
    """The crop and flip of MAE (arXiv 2111.06377, appendix A.1) on Pillow's images."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(224, scale=(0.2, 1.0), interpolation=BICUBIC),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )


def contenders(files: list[bytes]) -> dict[str, dict[str, Callable[[], object]]]:
    """What to time, by task and name; ours comes first."""
    rows = {"image": [{"bytes": content, "path": None} for content in files]}
    timm_transform = create_transform(
        224, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic"
    )
    peers = {
        "DINO's ten crops": {"lightly": DINOTransform(n_local_views=8), "the paper's": paper_dino()},
        "RandAugment": {"timm": timm_transform},
        "MAE's crop": {"torchvision": torchvision_mae()},
    }
    crops = multi_crop_transform(PROCESSOR, 96, 8)
    augmented = ImageTransform(training_transform(PROCESSOR, rand_augment=9))
    cropped = ImageTransform(training_transform(PROCESSOR, crop_scale=(0.2, 1.0)))
    ours = dict(zip(peers, (crops, augmented, cropped), strict=True))

    def peer(transform: Callable) -> Callable[[], object]:
        return lambda: [transform(opened(content)) for content in files]

    tasks = {
        task: {"hf_vit_suite": lambda task=task: ours[task](rows)}
        | {name: peer(transform) for name, transform in peers[task].items()}
        for task in peers
    }
    tasks["decoding alone"] = {
        "hf_vit_suite": lambda: [decode_image(image) for image in rows["image"]],
        "Pillow": lambda: [opened(content) for content in files],
    }
    return tasks


def features(random: np.random.Generator) -> dict[str, Callable[[], object]]:
    """Features of 28 x 28 pictures by a ViT-Ti, with and without reading them."""
    images = [
        encoded(Image.fromarray(random.integers(0, 255, (28, 28), dtype=np.uint8)), "PNG") for _ in range(DIGITS)
    ]
    columns = {"image": [{"bytes": content, "path": None} for content in images], "label": [0] * DIGITS}
    rows = Dataset.from_dict(
        columns, features=Features({"image": ImageFeature(decode=False), "label": Value("int64")})
    )
    model = SuiteViTModel(preset_config("vit_tiny_patch16_224", image_size=28, patch_size=7)).eval()
    extractor = FeatureExtractor(model, ViTImageProcessor(size={"height": 28, "width": 28}))
    ready = torch.randn(64, 3, 28, 28)

    @torch.inference_mode()
    def bare() -> list[torch.Tensor]:
        return [extractor(ready) for _ in range(DIGITS // 64)]

    return {"hf_vit_suite": lambda: extract_features(extractor, rows), "bare": bare}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    files = [photograph(random) for _ in range(arguments.images)]
    table = Table("task", "who", "images/s", "ratio", box=SIMPLE)
    tasks = {**contenders(files), "features of 28 x 28": features(random)}
    for task, who in tasks.items():
        number = DIGITS if "bare" in who else len(files)
        times = median_milliseconds(who, arguments.rounds)
        for name, time in times.items():
            ratio = time / times["hf_vit_suite"]
            table.add_row(task, name, f"{1000 * number / time:.0f}", "" if name == "hf_vit_suite" else f"{ratio:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
