"""Pictures of emoji with their Unicode names as captions: a small set of images and texts that needs no download.

    python examples/emoji_captions.py FONT FOLDER

FONT is a colour font of bitmaps such as NotoColorEmoji.ttf (Debian's package fonts-noto-color-emoji). FOLDER gets a
image for each emoji of one code point and metadata.csv, as `hf-vit-suite pretrain clip --dataset FOLDER` reads them.
"""

import argparse
import csv
import unicodedata
from pathlib import Path

from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

# The only size that the bitmaps of Noto Color Emoji have; an image of 136 x 128 pixels fits in it.
FONT_SIZE = 109
SIDE = 136
FIRST_SYMBOL = 0x203C  # below are digits and letters, which only make emoji together with other code points


def emoji_names(font: Path) -> dict[str, str]:
    """Every single-code-point symbol of a font with its Unicode name in small letters."""
    characters = (chr(code) for code in TTFont(font).getBestCmap() if code >= FIRST_SYMBOL)
    names = {character: unicodedata.name(character, "").lower() for character in characters}
    return {
        character: name
        for character, name in names.items()
        if name and unicodedata.category(character) in ("So", "Sm")
    }


def draw(character: str, font: ImageFont.FreeTypeFont) -> Image.Image | None:
    """An emoji on white; `None` where the font draws nothing."""
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    ImageDraw.Draw(picture).text((SIDE / 2, SIDE / 2), character, font=font, embedded_color=True, anchor="mm")
    return picture if picture.getextrema() != ((255, 255),) * 3 else None


def main() -> None:
    """Writes the images, then the captions."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("font", type=Path, help="colour font, e.g. NotoColorEmoji.ttf")
    parser.add_argument("folder", type=Path, help="folder to write")
    arguments = parser.parse_args()
    font = ImageFont.truetype(str(arguments.font), FONT_SIZE)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for character, name in emoji_names(arguments.font).items():
        if (picture := draw(character, font)) is not None:
            file = f"{ord(character):05x}.png"
            picture.save(arguments.folder / file)
            rows.append((file, name))
    with open(arguments.folder / "metadata.csv", "w", newline="") as table:
        csv.writer(table).writerows([("file_name", "text"), *rows])
    print(f"wrote {len(rows)} images with captions to {arguments.folder}")


if __name__ == "__main__":
    main()
