"""Tiny data sets on disk that a small network can learn: textured walls, defects as dark crooked lines."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.classes import CLASS_CODES, CSV_COLUMNS, CSV_NAMES, IMAGE_FOLDERS

FRAMES_PER_INSPECTION = 4


def draw_wall(rng: np.random.Generator, size: int, *, defect: bool) -> NDArray[np.uint8]:
    """A picture uint8 [size, size, 3]: blotchy brown wall; with a dark crooked line across it if `defect`."""
    blotches = rng.normal(0, 28, (8, 8, 3)) + rng.normal(0, 22, (8, 8, 1))
    coarse = np.clip(blotches + np.array([150, 130, 105]), 0, 255).astype(np.uint8)
    wall = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)).astype(np.float64)
    wall += rng.normal(0, 6, wall.shape)
    if defect:
        rows = np.arange(size)
        centre = size * rng.uniform(0.3, 0.7) + np.cumsum(rng.normal(0, 0.9, size))
        distance = np.abs(np.arange(size)[None, :] - np.clip(centre, 0, size - 1)[:, None])
        line = np.clip(1.5 - distance / (size / 32), 0, 1)
        wall[rows] -= 110 * line[..., None]
    return np.clip(wall, 0, 255).astype(np.uint8)


def write_sewer_ml(
    root: Path,
    *,
    train: int = 40,
    val: int = 20,
    test: int = 0,
    size: int = 64,
    seed: int = 0,
    zipped: bool = False,
    inspections: bool = True,
) -> Path:
    """Write a data set in Sewer-ML's format, half of it defects, four frames an inspection; returns `root`.

    Defects are RB; every other one is RO as well. With `zipped`, each split's images lie in two archives. The test
    split is annotated by file names alone, as the published one.
    """
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    inspected = []
    for split, count in (("train", train), ("val", val), ("test", test)):
        if count == 0:
            continue
        rows, images = [], {}
        for i in range(count):
            name, defect = f"{split}{i:05d}.png", i % 2
            shown = {"RB", "RO"} if i % 4 == 3 else {"RB"} if defect else set()
            classes = {code: int(code in shown) for code in CLASS_CODES}
            row = {"Filename": name, "WaterLevel": 0, "VA": 0, **classes, "ND": 1 - defect, "Defect": defect}
            rows.append(row if split != "test" else {"Filename": name})
            images[name] = png_bytes(draw_wall(rng, size, defect=bool(defect)))
            inspected.append((name, f"{split} run {i // FRAMES_PER_INSPECTION}"))
        write_rows(root / CSV_NAMES[split], CSV_COLUMNS if split != "test" else ("Filename",), rows)
        _write_images(root, IMAGE_FOLDERS[split], images, zipped)
    if inspections:
        lines = "".join(f"{name},{inspection}\n" for name, inspection in inspected)
        (root / "inspections.csv").write_text(f"Filename,Inspection\n{lines}")
    return root


def write_folders(
    root: Path, *, defect: int = 20, normal: int = 20, unlabelled: int = 0, size: int = 64, seed: int = 0
) -> Path:
    """Write the folders `defect/`, `normal/` and, if asked for, `unlabelled/` of JPEGs; returns `root`."""
    rng = np.random.default_rng(seed)
    for folder, count in (("defect", defect), ("normal", normal), ("unlabelled", unlabelled)):
        if count:
            (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            wall = draw_wall(rng, size, defect=folder == "defect")
            Image.fromarray(wall).save(root / folder / f"{folder}{i:04d}.jpg", quality=90)
    return root


def png_bytes(picture: NDArray[np.uint8]) -> bytes:
    """A picture as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def write_rows(path: Path, columns: Iterable[str], rows: Iterable[dict[str, object]]) -> None:
    """Write an annotation file."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows)


def _write_images(root: Path, folder: str, images: dict[str, bytes], zipped: bool) -> None:
    if not zipped:
        (root / folder).mkdir()
        for name, data in images.items():
            (root / folder / name).write_bytes(data)
        return
    for part in (0, 1):
        method = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[part]
        with zipfile.ZipFile(root / f"{folder}{part:02d}.zip", "w", method) as archive:
            for name in list(images)[part::2]:
                archive.writestr(f"{folder}{part:02d}/{name}", images[name])
