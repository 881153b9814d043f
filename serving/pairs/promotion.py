"""Which pair is the default, changed safely: verified first, switched in one step, and back again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from serving.errors import PairError
from serving.monitoring.drift_reference import load_reference
from serving.pairs.golden import verify_golden
from serving.pairs.pair import INDEX_FILE, Pair, find_pair, load_folder
from serving.pairs.pair_index import PairIndex, editing, read_index, replace_index
from serving.scorer import Scorer


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """A change of the default: the folder before ("" if there was none), and the pair that is the default now."""

    before: str
    now: Pair


def verify_pair(pair: Pair, *, device: str = "cpu", variants: Iterable[str] = ()) -> dict[str, dict[str, float]]:
    """Re-score the golden outputs of a pair whose files were checked when it was loaded, as a service would.

    Its drift reference, if it ships one, is read as well.

    Returns the largest deviation of each output (see `golden.GOLDEN_ATOL` for its unit), by variant: those named,
    or all that the pair has. Raises `PairNotFoundError`, `PairInvalidError` and `DeviceError`.
    """
    deviations = {}
    for variant in tuple(variants) or tuple(pair.manifest.variants):
        deviations[variant] = verify_golden(Scorer(pair, device=device, variant=variant))
        load_reference(pair, variant)
    return deviations


def promote(models: Path, reference: str, *, device: str = "cpu") -> Promotion:
    """Make NAME or NAME@VERSION the default; refused, with the reason, if it does not verify.

    A kill at any moment leaves either the default before or the new one. Raises as `find_pair` and `verify_pair`,
    and `ConfigError` if the index cannot be written.
    """
    pair = find_pair(models, reference)
    verify_pair(pair, device=device)
    with editing(models):
        known = (models / INDEX_FILE).is_file()
        index = read_index(models) if known else PairIndex(default=pair.path.name)
        replace_index(models, index.with_default(pair.path.name))
    return Promotion(before=index.default if known else "", now=pair)


def rollback(models: Path, *, device: str = "cpu") -> Promotion:
    """Make the default of before the last promotion the default again; verified and raising as `promote`."""
    before = read_index(models)
    pair = load_folder(models, before.rolled_back().default)
    verify_pair(pair, device=device)
    with editing(models):
        if read_index(models) != before:
            raise PairError("the default changed while the one before it was being verified; look again, and roll back")
        replace_index(models, before.rolled_back())
    return Promotion(before=before.default, now=pair)
