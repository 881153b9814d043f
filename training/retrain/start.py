"""Which encoder training starts from: that of a shipped pair, that of a run folder, or a freshly drawn one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from serving.durable import sha256_file, write_json_atomic
from serving.errors import ConfigError
from serving.pairs.pair import MANIFEST_FILE, Pair, find_pair, load_pair
from training import runs
from training.backbones import ENCODERS, Encoder, build_encoder
from training.recipes import RECIPES
from training.retrain.recover import encoder_from_pair, settle_batch_norms

DEFAULT_METHOD = "simclr"
DEFAULT_IMAGE_SIZE = 112


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where training starts.

    Attributes:
        kind: of a pair, of a run folder, or from scratch.
        name: of the pair or the run, for people.
        path: its folder; empty from scratch.
        sha256: of the file that decides its weights; empty from scratch.
        encoder, image_size: of the encoder that will be trained.
        method: the method that training goes on with.
    """

    kind: Literal["pair", "run", "scratch"]
    name: str
    path: str
    sha256: str
    encoder: str
    image_size: int
    method: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def words(self) -> str:
        """For a sentence: what training starts from."""
        return {"pair": f"the encoder of pair {self.name}", "run": f"the encoder of {self.path}"}.get(
            self.kind, "a freshly drawn encoder"
        )


def find_start(
    models: Path,
    *,
    init: str | None,
    from_scratch: bool,
    method: str | None,
    encoder: str | None,
    image_size: int | None,
) -> Start:
    """Resolve what the user named; the default pair if nothing was named.

    Args:
        models: folder of pairs.
        init: a pair's name, a pair's folder, or a run folder.
        from_scratch: draw weights anew; only then may `encoder` and `image_size` be chosen.
        method: None keeps the one that made the encoder, where it can be gone on with.

    Raises:
        ConfigError: contradicting options, or an encoder or method that training does not know.
        PairError, DataError: what was named cannot be read.
    """
    if from_scratch:
        if init is not None:
            raise ConfigError("--from-scratch draws a new encoder, --init names one: give one of them")
        name, size = encoder or next(iter(ENCODERS)), image_size or DEFAULT_IMAGE_SIZE
        build_encoder(name, image_size=size)
        chosen = _checked_method(method or DEFAULT_METHOD, name)
        return Start(kind="scratch", name="", path="", sha256="", encoder=name, image_size=size, method=chosen)
    if encoder is not None or image_size is not None:
        raise ConfigError("--encoder and --image-size are those of the encoder gone on with: give --from-scratch too")
    if init is not None and (Path(init) / runs.CONFIG).is_file():
        return _from_run(Path(init), method)
    pair = load_pair(Path(init)) if init and (Path(init) / MANIFEST_FILE).is_file() else find_pair(models, init)
    return _from_pair(pair, method)


def _from_run(run: Path, method: str | None) -> Start:
    encoder, config = runs.load_encoder(run)
    return Start(
        kind="run",
        name=run.resolve().name,
        path=str(run.resolve()),
        sha256=sha256_file(run / runs.ENCODER),
        encoder=encoder.name,
        image_size=encoder.image_size,
        method=_method_for(method, str(config.get("method")), encoder.name),
    )


def _from_pair(pair: Pair, method: str | None) -> Start:
    # Fails here, before hours of work, if the pair's encoder cannot be trained on.
    encoder = encoder_from_pair(pair)
    return Start(
        kind="pair",
        name=pair.name,
        path=str(pair.path.resolve()),
        sha256=sha256_file(pair.path / MANIFEST_FILE),
        encoder=encoder.name,
        image_size=encoder.image_size,
        method=_method_for(method, pair.manifest.method, encoder.name),
    )


def _method_for(asked: str | None, made_by: str, encoder: str) -> str:
    if asked is None:
        return made_by if (made_by, encoder) in RECIPES else DEFAULT_METHOD
    return _checked_method(asked, encoder)


def _checked_method(method: str, encoder: str) -> str:
    if (method, encoder) not in RECIPES:
        methods = ", ".join(name for name, other in RECIPES if other == encoder)
        raise ConfigError(f"there is no recipe for {method} on {encoder}; there are {methods}")
    return method


def write_initial(start: Start, views: Iterable[Tensor], run: Path) -> Encoder:
    """Write the encoder that training starts from as the run folder `run`; not for a start from scratch.

    Args:
        views: what training will show, for the batch norms of an encoder that comes without its statistics.
    """
    if start.kind == "run":
        encoder, _ = runs.load_encoder(Path(start.path))
    else:
        encoder = encoder_from_pair(load_pair(Path(start.path)))
        settle_batch_norms(encoder, views)
    config = {"method": start.method, "encoder": start.encoder, "image_size": start.image_size}
    write_json_atomic(run / runs.CONFIG, config | {"taken_from": start.to_json()})
    runs.save_encoder(run, encoder)
    runs.update_run(run, status="finished")
    return encoder
