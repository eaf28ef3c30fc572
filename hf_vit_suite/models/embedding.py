"""From pixels to tokens: patch projection, prefix tokens, and positions for any image size.

Shape letters: see transformer.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def patchify(pixel_values: Tensor, patch_size: int) -> Tensor:
    """Cuts images into flat patches: channel first within a patch, patches row by row.

    Args:
        pixel_values: `[batch, channels, height, width]`; sides are multiples of `patch_size`.
        patch_size: Side of a patch in pixels.

    Returns:
        `[batch, patches, channels * patch_size * patch_size]`.
    """
    batch, channels, height, width = pixel_values.shape
    rows, columns = height // patch_size, width // patch_size
    patches = pixel_values.reshape(batch, channels, rows, patch_size, columns, patch_size)
    patches = patches.permute(0, 2, 4, 1, 3, 5)  # (B, C, h, P, w, P) -> (B, h, w, C, P, P)
    return patches.reshape(batch, rows * columns, channels * patch_size * patch_size)


def whole_patches(pixel_values: Tensor, patch_size: int) -> Tensor:
    """Crops the bottom and right pixels that fill no whole patch, as a strided convolution does.

    Args:
        pixel_values: `[..., height, width]`.
        patch_size: Side of a patch in pixels.
    """
    height, width = pixel_values.shape[-2:]
    return pixel_values[..., : height // patch_size * patch_size, : width // patch_size * patch_size]


def take_tokens(tokens: Tensor, numbers: Tensor) -> Tensor:
    """Gathers tokens by index: `[batch, tokens, hidden]` and `[batch, chosen]` -> `[batch, chosen, hidden]`."""
    return tokens.gather(1, numbers.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def sincos_position_table(rows: int, columns: int, hidden_size: int, num_prefix_tokens: int = 0) -> Tensor:
    """Fixed two-dimensional sine-cosine positions (He et al. 2021, arXiv 2111.06377, appendix A.1).

    The first half of the width encodes the column, the second half the row. Each half holds the sines, then the
    cosines, of the position times 10000^(-i / (D/4)). Prefix tokens have zeros.

    Returns:
        `[1, num_prefix_tokens + rows * columns, hidden_size]`, float32.
    """
    frequencies = 10000.0 ** -(torch.arange(hidden_size // 4, dtype=torch.float64) / (hidden_size // 4))
    row, column = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64), indexing="ij"
    )
    angles = [axis.reshape(-1, 1) * frequencies for axis in (column, row)]
    table = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
    return F.pad(table.float(), (0, 0, num_prefix_tokens, 0)).unsqueeze(0)


def resize_position_table(
    table: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int], antialias: bool = False, offset: float = 0.0
) -> Tensor:
    """Resizes the positions of a patch grid by bicubic interpolation in float32.

    Args:
        table: `[1, old rows * old columns, hidden]`.
        old_grid: (rows, columns) of `table`.
        new_grid: (rows, columns) of the result.
        antialias: Whether downsampling antialiases.
        offset: If not 0, the scale factor is (new + offset) / old instead of the ratio of the sizes. The original
            DINO and DINOv2 code adds 0.1 against rounding errors. This shifts the result slightly, and their weights
            expect it.

    Returns:
        `[1, new rows * new columns, hidden]` in the table's dtype; `table` itself if the grids are equal.
    """
    if new_grid == old_grid:
        return table
    grid = table.float().reshape(1, *old_grid, -1).permute(0, 3, 1, 2)  # (1, h * w, D) -> (1, D, h, w)
    if offset:
        scale = [float(new + offset) / old for new, old in zip(new_grid, old_grid, strict=True)]
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", antialias=antialias)
    else:
        grid = F.interpolate(grid, size=new_grid, mode="bicubic", antialias=antialias)
    return grid.flatten(2).transpose(1, 2).to(table.dtype)  # (1, D, h, w) -> (1, h * w, D)


class PatchProjection(nn.Conv2d):
    """A convolution whose stride equals its kernel size, computed as one matrix product over the patches.

    This skips the layout changes of convolution kernels. As a `Conv2d` it still supports LoRA, pruning, hooks and
    offloaded weights.
    """

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`[batch, channels, height, width]` -> `[batch, hidden, rows, columns]`."""
        size = self.kernel_size[0]
        batch, _, height, width = pixel_values.shape
        projected = F.linear(patchify(pixel_values, size), self.weight.flatten(1), self.bias)
        # (B, h * w, D) -> (B, D, h, w)
        return projected.transpose(1, 2).view(batch, -1, height // size, width // size)


class PatchEmbedding(nn.Module):
    """Linear projection of patches; the weight has a convolution's shape, `[hidden, channels, P, P]`."""

    def __init__(self, config):
        super().__init__()
        self.patch_size = config.patch_size
        self.num_channels = config.num_channels
        self.projection = PatchProjection(
            config.num_channels,
            config.hidden_size,
            config.patch_size,
            config.patch_size,
            bias=config.use_patch_bias,
        )

    def grid(self, pixel_values: Tensor) -> tuple[int, int]:
        """Rows and columns of the patch grid.

        Raises:
            ValueError: If the channels differ from the config's, or a side is not a multiple of the patch size.
        """
        _, channels, height, width = pixel_values.shape
        if channels != self.num_channels:
            raise ValueError(f"pixel_values must have {self.num_channels} channels, got {channels}")
        if height % self.patch_size or width % self.patch_size or not height or not width:
            raise ValueError(
                f"image sides must be multiples of the patch size {self.patch_size}, got {height} x {width} pixels: "
                f"resize or crop to {round_to_multiple(height, self.patch_size)} x "
                f"{round_to_multiple(width, self.patch_size)}, or pass interpolate_pos_encoding=True, which drops the "
                "rest"
            )
        return height // self.patch_size, width // self.patch_size

    def forward(self, pixel_values: Tensor, visible: Tensor | None = None) -> Tensor:
        """`[batch, channels, height, width]` -> `[batch, patches, hidden]`, all or those indexed by `visible`."""
        if visible is None:
            return self.projection(pixel_values).flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, h * w, D), a view
        patches = take_tokens(patchify(pixel_values, self.patch_size), visible)
        # The projection takes images, so each visible patch is passed as an image.
        images = patches.view(-1, self.num_channels, self.patch_size, self.patch_size)
        return self.projection(images).view(*visible.shape, -1)


def round_to_multiple(size: float, multiple: int) -> int:
    """The multiple nearest to `size`, at least `multiple` itself."""
    return max(1, round(size / multiple)) * multiple


class Embeddings(nn.Module):
    """Class, distillation, register and patch tokens with positions.

    Token order: class, distillation (if used), registers (without position), patches row by row.
    """

    def __init__(self, config, use_mask_token: bool = False):
        super().__init__()
        hidden = config.hidden_size
        self.grid = config.grid_height_width
        self.antialias = config.position_interpolation_antialias
        self.offset = config.position_interpolation_offset
        self.num_positioned_prefix_tokens = 1 + int(config.use_distillation_token)
        self.has_fixed_positions = config.position_embedding_type != "learned"
        num_positions = self.num_positioned_prefix_tokens + self.grid[0] * self.grid[1]

        self.patch_embeddings = PatchEmbedding(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, hidden))
        self.distillation_token = nn.Parameter(torch.zeros(1, 1, hidden)) if config.use_distillation_token else None
        self.register_tokens = (
            nn.Parameter(torch.zeros(1, config.num_register_tokens, hidden)) if config.num_register_tokens else None
        )
        self.mask_token = nn.Parameter(torch.zeros(1, hidden)) if config.has_mask_token or use_mask_token else None
        self.position_embeddings = nn.Parameter(
            torch.zeros(1, num_positions, hidden), requires_grad=not self.has_fixed_positions
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def positions(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Positions of class and distillation tokens `[1, 1 or 2, hidden]`, and of patches `[1, h * w, hidden]`."""
        # Detaching keeps a fixed table without gradient even if a caller makes every parameter trainable.
        table = self.position_embeddings.detach() if self.has_fixed_positions else self.position_embeddings
        prefix, patches = table.tensor_split([self.num_positioned_prefix_tokens], dim=1)
        return prefix, resize_position_table(patches, self.grid, grid, self.antialias, self.offset)

    def prefix_tokens(self, prefix_positions: Tensor) -> Tensor:
        """All prefix tokens, `[1, prefix tokens, hidden]`."""
        tokens = self.cls_token
        if self.distillation_token is not None:
            tokens = torch.cat((tokens, self.distillation_token), dim=1)
        tokens = tokens + prefix_positions
        if self.register_tokens is not None:
            tokens = torch.cat((tokens, self.register_tokens), dim=1)
        return tokens

    def forward(
        self, pixel_values: Tensor, bool_masked_pos: Tensor | None = None, visible: Tensor | None = None
    ) -> Tensor:
        """Embeds images.

        Args:
            pixel_values: `[batch, channels, height, width]`, any dtype; cast to the weights' dtype. Under autocast the
                tokens keep the dtype of the positions, as in timm and transformers.
            bool_masked_pos: `[batch, patches]`, True where the mask token replaces the patch.
            visible: `[batch, visible]`, indices of the patches to embed, in output order; default all.

        Returns:
            `[batch, tokens, hidden]`.

        Raises:
            ValueError: If channels or sides do not fit, or `bool_masked_pos` is given to a model without mask token.
        """
        grid = self.patch_embeddings.grid(pixel_values)
        prefix_positions, patch_positions = self.positions(grid)
        patches = self.patch_embeddings(pixel_values.to(self.patch_embeddings.projection.weight.dtype), visible)
        if visible is not None:
            patch_positions = patch_positions[0, visible]
        if bool_masked_pos is not None:
            if self.mask_token is None:
                raise ValueError("bool_masked_pos needs a model whose config has use_mask_token=True")
            patches = torch.where(bool_masked_pos.bool().unsqueeze(-1), self.mask_token, patches)
        prefix = self.prefix_tokens(prefix_positions).expand(patches.shape[0], -1, -1)
        return self.dropout(torch.cat((prefix, patches + patch_positions), dim=1))
