"""What methods, encoders, data sets and metrics are called in a report, in which order and colours they come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

LineStyle = Literal["-", "--", "-.", ":", "none"]


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a method is written and drawn; `dashes` is one of matplotlib's line styles."""

    label: str
    colour: str
    marker: str
    dashes: LineStyle = "-"


# Paul Tol's "muted" scheme, told apart by colour-blind readers; markers differ too, so colour never stands alone.
_STYLES = MappingProxyType(
    {
        "simclr": Style(label="SimCLR", colour="#332288", marker="o"),
        "barlow_twins": Style(label="Barlow Twins", colour="#88CCEE", marker="s"),
        "byol": Style(label="BYOL", colour="#44AA99", marker="^"),
        "dino": Style(label="DINO", colour="#CC6677", marker="D"),
        "mae": Style(label="MAE", colour="#999933", marker="v"),
        # One family, one colour: it stands in for MAE where there is no transformer.
        "masked_conv": Style(label="masked conv (ours)", colour="#999933", marker="v"),
        "vicreg": Style(label="VICReg", colour="#117733", marker="P"),
        "lejepa": Style(label="LeJEPA", colour="#AA4499", marker="X"),
        "visreg": Style(label="VISReg", colour="#882255", marker="*"),
        "random": Style(label="random weights (floor)", colour="#888888", marker="|", dashes=":"),
        "transferred": Style(label="initial encoder, untrained here", colour="#666666", marker="1", dashes="-."),
        "supervised": Style(label="supervised", colour="#000000", marker="_", dashes="--"),
    }
)
FINETUNED = "finetuned_"
_BASELINES = ("random", "transferred", "supervised")
_UNKNOWN_COLOUR = "#DDAA33"

PAPER_FAMILIES = ("simclr", "barlow_twins", "byol", "dino", "mae")
_GROUPS = ("Methods of the published study", "Further methods", "Baselines")
_FAMILIES = MappingProxyType({"masked_conv": "mae"})

_ENCODERS = MappingProxyType({"resnet18": "ResNet-18", "vit_tiny": "ViT-Tiny"})

METRICS = MappingProxyType(
    {
        "f1": "F1",
        "f2": "F2",
        "f1_normal": "F1-normal",
        "f2_ciw_binary": "F2-CIW-binary*",
        "precision": "precision",
        "recall": "recall",
        "specificity": "specificity",
        "auroc": "AUROC",
        "average_precision": "AP",
    }
)
CLASS_METRICS = MappingProxyType({"f2_ciw": "F2CIW", "f1_normal": "F1_Normal", "macro_f1": "macro F1"})
CIW_NOTE = (
    "* `f2_ciw_binary` is a variant of this project: recall of the binary verdict per defect class, shared precision, "
    "weighted by class importance. It is not Sewer-ML's official F2CIW."
)
RULES = MappingProxyType({"published": "threshold 0.5", "chosen": "chosen threshold"})
LABEL_FREE = MappingProxyType(
    {
        "rankme": "RankMe",
        "alpha_req": "alpha-ReQ",
        "nesum": "NESum",
        "stable_rank": "stable rank",
        "self_cluster": "SelfCluster",
        "lidar": "LiDAR",
        "idest": "IdEst",
        "sigreg": "SIGReg statistic",
    }
)

# Stands for the validation set with the defect proportion that a run was trained at.
SAME = "val_same"
_DATA = MappingProxyType(
    {
        "train": "train",
        SAME: "val at the proportion of training",
        "val_balanced": "val, balanced",
        "val_natural": "val, natural",
        "test_balanced": "test, balanced",
        "test_natural": "test, natural",
    }
)


def family(method: str) -> str:
    """The family that a method counts as in analyses: masked_conv is this project's MAE for ResNet-18."""
    return _FAMILIES.get(method, method)


def family_label(name: str) -> str:
    """Its name; that of MAE says what stands for it."""
    return "MAE / masked conv (ours)" if name == "mae" else method_label(name)


def style(method: str) -> Style:
    """How `method` is drawn; an unknown one gets its own name and a colour that no other has."""
    if method.startswith(FINETUNED):
        start = style(method.removeprefix(FINETUNED))
        return Style(label=f"{start.label}, fine-tuned (ceiling)", colour="#555555", marker="x", dashes="-.")
    return _STYLES.get(method, Style(label=method, colour=_UNKNOWN_COLOUR, marker="h"))


def method_label(method: str) -> str:
    """What a method is called."""
    return style(method).label


def encoder_label(encoder: str) -> str:
    """What an encoder is called."""
    return _ENCODERS.get(encoder, encoder)


def proportion_label(proportion: float | None) -> str:
    """`1 %`; None is the whole training split."""
    return "whole split" if proportion is None else f"{100 * proportion:g} %"


def trained_label(proportion: float | None) -> str:
    """`at 1 %`, or `on the whole split`: how training goes on."""
    return "on the whole split" if proportion is None else f"at {proportion_label(proportion)}"


def data_label(data: str) -> str:
    """What a data set is called: `val_p1` is validation at 1 % defects."""
    split, _, share = data.rpartition("_p")
    if split and share.replace(".", "", 1).isdigit():
        return f"{split} at {share} %"
    return _DATA.get(data, data)


def kind_of(method: str) -> str:
    """The kind of experiment that a method's name stands for: `ssl` unless it names a baseline."""
    return "finetuned" if method.startswith(FINETUNED) else method if method in _BASELINES else "ssl"


def group_label(method: str) -> str:
    """The part of a table that a method's row stands in."""
    if kind_of(method) != "ssl":
        return _GROUPS[2]
    return _GROUPS[0] if family(method) in PAPER_FAMILIES else _GROUPS[1]


def method_order(methods: Iterable[str]) -> list[str]:
    """In the order of every table: by group, known methods before others, those by name."""
    known = list(_STYLES)

    def place(method: str) -> tuple[int, int, str]:
        return (_GROUPS.index(group_label(method)), known.index(method) if method in known else len(known), method)

    return sorted(set(methods), key=place)
