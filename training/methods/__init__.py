"""Self-supervised methods, one a file."""

from __future__ import annotations

from training.methods.barlow_twins import BarlowTwins
from training.methods.base import Method, MethodConfig
from training.methods.byol import BYOL
from training.methods.dino import DINO
from training.methods.lejepa import LeJEPA
from training.methods.mae import MAE
from training.methods.masked_conv import MaskedConv
from training.methods.simclr import SimCLR
from training.methods.vicreg import VICReg
from training.methods.visreg import VISReg

__all__ = ["METHODS", "Method", "MethodConfig"]

METHODS: dict[str, type[Method]] = {
    "simclr": SimCLR,
    "barlow_twins": BarlowTwins,
    "byol": BYOL,
    "dino": DINO,
    "mae": MAE,
    "masked_conv": MaskedConv,
    "vicreg": VICReg,
    "lejepa": LeJEPA,
    "visreg": VISReg,
}
