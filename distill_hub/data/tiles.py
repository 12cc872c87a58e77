"""What an image can hold that is made of f x f tiles; `augmentation.tiles` shows them. PyTorch is not needed to know it."""

MOST_TILES = 8  # f; IDC has 2 and 3


def tile_side(size: int, tiles: int) -> int:
    """Return the side of each tile of an image of `size` pixels that holds tiles x tiles of them."""
    return -(-size // tiles)


def can_hold(size: int, tiles: int) -> bool:
    """Return whether an image of `size` pixels holds tiles x tiles of them, none of padding alone."""
    return 1 <= tiles <= MOST_TILES and (tiles - 1) * tile_side(size, tiles) < size
