"""Images a second that one thread prepares for training, beside lightly, timm and torchvision, in turn in one process.

    python benchmarks/data.py [--images 64] [--rounds 5]

Every contender starts from the bytes of the same JPEG files, of 500 x 375 pixels where no size is given. A round times
each once, in turn, so that other load affects all of them. The ratio is a peer's median time over ours (above 1: ours
is faster). `scaled` decodes JPEG files at no more resolution than a crop needs. `bare` of the features is the model
alone on tensors that are ready; its ratio is the fraction of its speed that is left when 28 x 28 images are decoded
and prepared for it.
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
from torchvision.io import decode_jpeg
from torchvision.transforms import InterpolationMode, v2
from transformers import ViTImageProcessor

from hf_vit_suite import SuiteViTModel, preset_config
from hf_vit_suite.data import ImageTransform, decode_image, multi_crop_transform, training_transform
from hf_vit_suite.data.jpeg import random_resized_crop
from hf_vit_suite.data.pixels import normalized
from hf_vit_suite.evaluation.features import FeatureExtractor, extract_features

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BICUBIC = InterpolationMode.BICUBIC
PROCESSOR = ViTImageProcessor(image_mean=MEAN, image_std=STD, resample=3)
DIGITS, LARGE = 512, 4


def photograph(random: np.random.Generator, width: int = 500, height: int = 375) -> bytes:
    """A JPEG file with large coloured areas and fine grain."""
    areas = Image.fromarray(random.integers(0, 255, (24, 32, 3), dtype=np.uint8)).resize(
        (width, height), Image.BICUBIC
    )
    pixels = np.asarray(areas) + random.normal(0, 8, (height, width, 3))
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


def scaled_crop(content: bytes) -> torch.Tensor:
    """MAE's crop and flip by `random_resized_crop`."""
    crop = random_resized_crop(content, (224, 224), (0.2, 1.0), BICUBIC)
    return normalized(crop.flip(-1) if torch.rand(1) < 0.5 else crop, MEAN, STD)


def decoded(content: bytes, divisor: int) -> Image.Image:
    """Decodes at a fraction of the size."""
    image = Image.open(io.BytesIO(content))
    image.draft(None, (image.width // divisor, image.height // divisor))
    image.load()
    return image


def contenders(files: list[bytes], large: list[bytes]) -> dict[str, dict[str, Callable[[], object]]]:
    """What to time, by task and name; ours comes first."""
    timm_transform = create_transform(
        224, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic"
    )
    ten_crops = multi_crop_transform(PROCESSOR, 96, 8)
    augmented = ImageTransform(training_transform(PROCESSOR, rand_augment=9))
    cropped = ImageTransform(training_transform(PROCESSOR, crop_scale=(0.2, 1.0)))

    def ours(transform: Callable, files: list[bytes] = files) -> Callable[[], object]:
        rows = {"image": [{"bytes": content, "path": None} for content in files]}
        return lambda: transform(rows)

    def each(prepare: Callable, files: list[bytes] = files) -> Callable[[], object]:
        return lambda: [prepare(content) for content in files]

    def peer(transform: Callable, files: list[bytes] = files) -> Callable[[], object]:
        return each(lambda content: transform(opened(content)), files)

    return {
        "DINO's ten crops": {
            "hf_vit_suite": ours(ten_crops),
            "lightly": peer(DINOTransform(n_local_views=8)),
            "the paper's": peer(paper_dino()),
        },
        "RandAugment": {"hf_vit_suite": ours(augmented), "timm": peer(timm_transform)},
        "MAE's crop": {
            "hf_vit_suite": ours(cropped),
            "hf_vit_suite, scaled": each(scaled_crop),
            "torchvision": peer(torchvision_mae()),
        },
        "MAE's crop of 2000 x 1500": {
            "hf_vit_suite": ours(cropped, large),
            "hf_vit_suite, scaled": each(scaled_crop, large),
            "torchvision": peer(torchvision_mae(), large),
        },
        "decoding alone": {
            "hf_vit_suite": each(decode_image),
            "Pillow": each(opened),
            **{
                f"Pillow at 1/{divisor}": each(lambda content, by=divisor: decoded(content, by))
                for divisor in (2, 4, 8)
            },
            "torchvision": each(lambda content: decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8))),
        },
    }


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
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    files = [photograph(random) for _ in range(arguments.images)]
    large = [photograph(random, 2000, 1500) for _ in range(LARGE)]
    table = Table("task", "who", "images/s", "ratio", box=SIMPLE)
    for task, who in {**contenders(files, large), "features of 28 x 28": features(random)}.items():
        number = DIGITS if "bare" in who else LARGE if "2000" in task else len(files)
        times = median_milliseconds(who, arguments.rounds)
        for name, time in times.items():
            ratio = time / times["hf_vit_suite"]
            table.add_row(task, name, f"{1000 * number / time:.0f}", "" if name == "hf_vit_suite" else f"{ratio:.2f}")
    Console(width=100).print(table)
    print(f"torch {torch.__version__}, 1 thread, {len(files)} images, {arguments.rounds} rounds")


if __name__ == "__main__":
    main()
