"""When a simulated frame counts as showing a defect: the one rule that frames and inspections share."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from training.data.classes import CLASS_CODES

# A class is on a frame if at least this share of its pixels shows it (1 pixel in 250) ...
VISIBLE_SHARE = 0.004
# ... and a frame is normal only if no more than this share shows any defect. In between an inspector could say either:
# frames data sets leave such frames out.
NEGLIGIBLE_SHARE = 0.0006


def class_shares(classes: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """float64 [N, 17]: the share of each frame's pixels that shows each class, from class maps uint8 [N, H, W]."""
    flat = classes.flatten(1).cpu().numpy()
    counts = np.stack([np.bincount(row, minlength=len(CLASS_CODES) + 1)[1:] for row in flat])
    shares: np.ndarray[tuple[int, int], np.dtype[np.float64]] = counts / flat.shape[1]
    return shares
