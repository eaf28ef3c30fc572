"""From pixels to tokens: patches, the tokens in front of them, and positions for any image size.

Shape letters: B batch, C channels, H W image, h w patch grid, p patch side, N tokens, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def patchify(pixel_values: Tensor, patch_size: int) -> Tensor:
    """Cuts images into flat patches, channel first within a patch, rows of patches first within an image.

    Args:
        pixel_values: `[batch, channels, height, width]`; sides are multiples of `patch_size`.
        patch_size: Side of a patch in pixels.

    Returns:
        `[batch, patches, channels * patch_size * patch_size]`.
    """
    batch, channels, height, width = pixel_values.shape
    rows, columns = height // patch_size, width // patch_size
    patches = pixel_values.reshape(batch, channels, rows, patch_size, columns, patch_size)
    patches = patches.permute(0, 2, 4, 1, 3, 5)  # (B, C, h, p, w, p) -> (B, h, w, C, p, p)
    return patches.reshape(batch, rows * columns, channels * patch_size * patch_size)


def whole_patches(pixel_values: Tensor, patch_size: int) -> Tensor:
    """Drops the rows and columns at the end that fill no patch, as a strided convolution does.

    Args:
        pixel_values: `[..., height, width]`.
        patch_size: Side of a patch in pixels.
    """
    height, width = pixel_values.shape[-2:]
    return pixel_values[..., : height // patch_size * patch_size, : width // patch_size * patch_size]


def take_tokens(tokens: Tensor, numbers: Tensor) -> Tensor:
    """Chosen tokens of each sample: `[batch, tokens, hidden]` and `[batch, chosen]` -> `[batch, chosen, hidden]`."""
    return tokens.gather(1, numbers.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def sincos_position_table(rows: int, columns: int, hidden_size: int, num_prefix_tokens: int = 0) -> Tensor:
    """Fixed two-dimensional sine-cosine positions (He et al. 2021, arXiv 2111.06377, appendix A.1).

    The first half of the width codes the column, the second the row; each is sines, then cosines, of the
    position times 10000^(-i / (D/4)). Tokens in front of the patches have zeros.

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
    """Resizes the positions of a patch grid to another one, bicubic, in float32.

    Args:
        table: `[1, old rows * old columns, hidden]`.
        old_grid: (rows, columns) of `table`.
        new_grid: (rows, columns) wanted.
        antialias: Whether the interpolation antialiases when it shrinks.
        offset: Where not 0, the scale is (new + offset) / old, not the ratio of the sizes. The original DINO and
            DINOv2 code adds 0.1 against rounding, which shifts the result a little, and their weights expect it.

    Returns:
        `[1, new rows * new columns, hidden]` in the table's dtype; `table` itself where the grids are equal.
    """
    if new_grid == old_grid:
        return table
    grid = table.float().reshape(1, *old_grid, -1).permute(0, 3, 1, 2)  # (1, N, D) -> (1, D, h, w)
    if offset:
        scale = [float(new + offset) / old for new, old in zip(new_grid, old_grid, strict=True)]
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", antialias=antialias)
    else:
        grid = F.interpolate(grid, size=new_grid, mode="bicubic", antialias=antialias)
    return grid.flatten(2).transpose(1, 2).to(table.dtype)  # (1, D, h, w) -> (1, N, D)


class PatchProjection(nn.Conv2d):
    """A convolution whose stride is its kernel, computed as one matrix product over the patches.

    It skips the layout changes of convolution kernels. As a `Conv2d` that is called like one it keeps what others
    attach to convolutions: LoRA, pruning, hooks and offloaded weights.
    """

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`[batch, channels, height, width]` -> `[batch, hidden, rows, columns]`."""
        size = self.kernel_size[0]
        batch, _, height, width = pixel_values.shape
        projected = F.linear(patchify(pixel_values, size), self.weight.flatten(1), self.bias)
        return projected.transpose(1, 2).view(batch, -1, height // size, width // size)  # (B, N, D) -> (B, D, h, w)


class PatchEmbedding(nn.Module):
    """Linear projection of patches. The weight has a convolution's shape, `[hidden, channels, p, p]`."""

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
        """Rows and columns of patches in an image.

        Raises:
            ValueError: If the channels, or the sides, don't suit the model.
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
        """`[batch, channels, height, width]` -> `[batch, patches, hidden]`, all or those numbered in `visible`."""
        if visible is None:
            return self.projection(pixel_values).flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, N, D), a view
        patches = take_tokens(patchify(pixel_values, self.patch_size), visible)
        # The projection takes images, so each visible patch is one.
        images = patches.view(-1, self.num_channels, self.patch_size, self.patch_size)
        return self.projection(images).view(*visible.shape, -1)


def round_to_multiple(size: float, multiple: int) -> int:
    """The multiple nearest to `size`, at least one."""
    return max(1, round(size / multiple)) * multiple


class Embeddings(nn.Module):
    """Class, distillation, register and patch tokens with positions.

    Token order: class, distillation (where used), registers (without position), patches row by row.
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
        """Positions of class and distillation token `[1, 1 or 2, hidden]`, and of a patch grid `[1, h*w, hidden]`."""
        # Detached, a fixed table gets no gradient even where a caller made every parameter trainable.
        table = self.position_embeddings.detach() if self.has_fixed_positions else self.position_embeddings
        prefix, patches = table.tensor_split([self.num_positioned_prefix_tokens], dim=1)
        return prefix, resize_position_table(patches, self.grid, grid, self.antialias, self.offset)

    def prefix_tokens(self, prefix_positions: Tensor) -> Tensor:
        """Every token in front of the patches, `[1, prefix tokens, hidden]`."""
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
            pixel_values: `[batch, channels, height, width]`, any dtype; cast to the weights'. Under autocast the
                tokens keep the precision of the positions, as the residual stream of timm and transformers does.
            bool_masked_pos: `[batch, patches]`, True where the mask token stands in for the patch.
            visible: `[batch, visible]`, numbers of the patches to embed, in the order wanted; default all.

        Returns:
            `[batch, tokens, hidden]`.

        Raises:
            ValueError: If the sides are no multiples of the patch, or a mask is given to a model without mask token.
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
