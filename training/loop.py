"""The one pretraining loop.

It knows methods only through `training.methods.base`. Whatever is drawn in step t comes from generators seeded by
(seed, t), and the order of an epoch from (seed, epoch), so a checkpoint needs no generator state and a resumed run
computes what an uninterrupted one would have: bit for bit on a CPU with the same number of threads.

Several processes may share a run (`training.distributed`). All hold the whole state and take the same steps; rank 0
alone writes. Batches are those of a run of one process, divided, so either can go on where the other stopped.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from serving.durable import write_json_atomic
from serving.errors import ConfigError, DataError, PipeprobeError
from serving.progress import Advance, track_progress
from training.backbones import Encoder, build_encoder, seeded_init
from training.compiled import compile_encoders, uncompiled
from training.config import PretrainConfig
from training.data.augment import make_views
from training.data.loader import epoch_batches
from training.data.normalise import normalise
from training.data.pack import Pack
from training.distributed import average_gradients, rank, require_same, said_by_first, share_of_batch, world_size
from training.features import encoder_digest
from training.label_free import feature_std, is_collapsed, rankme
from training.methods import METHODS, Method
from training.optim import apply_schedules, build_optimizer, learning_rate
from training.precision import forward_in
from training.runs import (
    CHECKPOINT,
    CONFIG,
    METRICS,
    RUN,
    load_tensors,
    provenance,
    save_encoder,
    save_tensors,
    update_run,
)
from training.sync_norm import synchronise_norms

_log = logging.getLogger(__name__)

# What a pack may take of the GPU's free memory to be kept there; the rest is for the step itself.
RESIDENT_SHARE = 0.4
MONITOR_BATCH = 128
# Streams of randomness within a step.
VIEW_STREAM, METHOD_STREAM = 0, 1


class DivergedError(PipeprobeError):
    """The loss, or what the encoder computes, is no longer a finite number."""

    status = 500
    slug = "diverged"
    title = "Training diverged"


class RunWriteError(PipeprobeError):
    """The run folder cannot be written to."""

    status = 507
    slug = "run-write"
    title = "Run folder cannot be written"


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """How a run is carried out; nothing here changes what it computes.

    Attributes:
        device: of this process: `cpu`, `cuda` or `cuda:1`.
        log_steps: a line in the metrics every so many steps, and the check for a finite loss.
        checkpoint_minutes: a checkpoint at least this often, beside the one after each epoch.
        checkpoint_steps: one every so many steps too; None for no such rhythm.
        max_minutes: stop with a checkpoint after this time; None for no limit.
        monitor_frames: size of the fixed subset on which RankMe and feature std are measured after each epoch.
        compile: compile the encoder's forward pass. It rounds otherwise then, so that curves agree but not bit for bit.
    """

    device: str = "cpu"
    log_steps: int = 10
    checkpoint_minutes: float = 10.0
    checkpoint_steps: int | None = None
    max_minutes: float | None = None
    monitor_frames: int = 1024
    compile: bool = False

    def __post_init__(self) -> None:
        if self.log_steps < 1 or self.monitor_frames < 2 or (self.checkpoint_steps or 1) < 1:
            raise ConfigError("log_steps and checkpoint_steps must be positive, monitor_frames at least 2")
        if self.checkpoint_minutes <= 0 or (self.max_minutes is not None and self.max_minutes <= 0):
            raise ConfigError("checkpoint_minutes and max_minutes must be positive")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a run ended. `loss`, `rankme` and `feature_std` are those of the last whole epoch, NaN before it."""

    status: str
    epochs_done: int
    loss: float
    rankme: float
    feature_std: float
    frames_per_s: float
    run: Path


def pretrain(
    config: PretrainConfig,
    pack: Pack,
    run: Path,
    *,
    options: LoopOptions,
    initial: Encoder | None = None,
    resume: bool = False,
    command: str = "",
) -> Summary:
    """Train `config` on `pack` into the folder `run`; see `training.runs` for what it holds afterwards.

    Within `training.distributed.joined_processes` the processes share the run, and each gets the summary.

    Args:
        initial: the encoder that `config.initial_encoder` names; not needed to resume.

    Raises:
        ConfigError: the run folder is taken, or holds another config or pack than the one to resume; `initial` is not
            the encoder that the config names; or batches cannot be divided over the processes.
        DataError: the checkpoint to resume from is damaged, or does not fit.
        DivergedError: the loss stopped being finite; the last checkpoint is from before.
        RunWriteError: the run folder cannot be written to, as on a full disk; the last checkpoint is as it was.
    """
    if not resume:
        _check_initial(config, initial)
    loop = _Loop(config, pack, run, options, initial)
    if resume:
        loop.load()
    elif (run / CONFIG).exists() or (run / CHECKPOINT).exists():
        raise ConfigError(f"{run} already holds a run: continue it with --resume, or choose another folder")
    # Not before all processes have looked: what rank 0 writes now would be a run already there to the others.
    require_same(config=config.to_json(), pack=pack.digest, step=loop.step)
    try:
        loop.open_run(command)
        return loop.finish(loop.train())
    except BaseException as error:
        loop.record_failure(error)
        raise


def _check_initial(config: PretrainConfig, initial: Encoder | None) -> None:
    digest = encoder_digest(initial) if initial is not None else None
    if digest != config.initial_encoder:
        raise ConfigError(
            f"the config starts from the encoder {config.initial_encoder or 'none'}, "
            f"and the one given is {digest or 'none'}"
        )


def step_seed(seed: int, step: int, stream: int) -> int:
    """A seed that depends on all three numbers, for a generator of torch."""
    return int(np.random.SeedSequence((seed, step, stream)).generate_state(1, np.uint64)[0] >> 1)


class _Loop:
    """State of one run: method, optimiser, and how far it is."""

    def __init__(
        self,
        config: PretrainConfig,
        pack: Pack,
        run: Path,
        options: LoopOptions,
        initial: Encoder | None = None,
    ) -> None:
        if pack.size < config.image_size:
            raise ConfigError(
                f"{pack.path} holds frames of {pack.size} px, too small for image_size={config.image_size}: "
                "pack them larger or train smaller"
            )
        self.config, self.pack, self.run, self.options = config, pack, run, options
        self.device = torch.device(options.device)
        self.share = share_of_batch(config.batch_size)
        self.steps_per_epoch = len(pack) // config.batch_size
        if not self.steps_per_epoch:
            raise ConfigError(
                f"{pack.path} has {len(pack)} frames, fewer than a batch of {config.batch_size}: take a batch size of "
                f"at most {len(pack)}, or more frames"
            )
        self.total_steps = self.steps_per_epoch * config.epochs
        self.method = _build_method(config, initial)
        if world_size() > 1:
            synchronise_norms(self.method)
        self.method.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch declares the two apart
        if options.compile:
            compile_encoders(self.method, self.device)
        self.optimizer = build_optimizer(self.method, config.optim)
        self.step = 0
        # Summed on the device, so that no step waits for its loss to reach the host.
        self.epoch_loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self.last_epoch: dict[str, Any] = {}
        # Step of the checkpoint on disk, if there is one.
        self.saved_step: int | None = None
        self.earlier_s = 0.0
        self.started = self.saved_at = time.monotonic()
        self.resident = self._fits_on_device()

    # ---- one step -------------------------------------------------------------------------------------------

    def train_step(self, frames: Tensor) -> tuple[Tensor, Tensor, float]:
        """One optimiser step on uint8 [B / W, S, S, 3], this process's share of a batch; returns the whole batch's
        loss, the norm of its gradient, and the learning rate."""
        seed, progress = self.config.seed, self.step / self.total_steps
        lr = learning_rate(
            self.config.optim, step=self.step, total_steps=self.total_steps, steps_per_epoch=self.steps_per_epoch
        )
        apply_schedules(self.optimizer, self.config.optim, lr=lr, progress=progress)
        drawn = torch.Generator().manual_seed(step_seed(seed, self.step, VIEW_STREAM))
        self.method.generator.manual_seed(step_seed(seed, self.step, METHOD_STREAM))
        views = make_views(frames, self.method.views, drawn)
        with forward_in(self.config.precision, self.device):
            loss = self.method.loss(views, progress)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call] # untyped in torch
        average_gradients(self.method.parameters())
        self.method.after_backward(progress)
        bound = self.config.optim.clip_grad_norm or math.inf
        grad_norm = torch.nn.utils.clip_grad_norm_(self.method.parameters(), bound)
        self.optimizer.step()
        self.step += 1
        self.method.after_step(self.step / self.total_steps)
        return loss.detach(), grad_norm, lr

    # ---- the run --------------------------------------------------------------------------------------------

    def train(self) -> str:
        """Run to the end or to the time limit; returns the run's status."""
        title = f"{self.config.method} {self.config.encoder}"
        frames = self.total_steps * self.config.batch_size
        with self._progress(title, frames) as advance:
            advance(self.step * self.config.batch_size)
            while self.step < self.total_steps:
                if not self._train_epoch(advance):
                    return "paused"
        collapsed = bool(self.last_epoch.get("collapsed"))
        return "collapsed" if collapsed else "finished"

    def _progress(self, title: str, frames: int) -> AbstractContextManager[Advance]:
        return nullcontext(_advance_unseen) if rank() else track_progress(title, total=frames, unit="frames")

    def _train_epoch(self, advance: Advance) -> bool:
        """Train to the end of the epoch that `step` lies in; False if time ran out before."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        self.method.train()
        rate, note = _Rate(), self._note(epoch)
        with closing(self._batches(epoch)) as batches:
            for frames in islice(batches, done, None):
                loss, grad_norm, lr = self.train_step(frames)
                self.epoch_loss += loss
                rate.count(self.config.batch_size)
                advance(self.config.batch_size, note=note)
                if self.step % self.options.log_steps == 0:
                    self._log_step(epoch, loss, grad_norm, lr, rate)
                if self.step % self.steps_per_epoch and self._pause_or_save():
                    return False
        self._end_epoch(epoch, rate)
        return self.step == self.total_steps or not self._out_of_time()

    def _note(self, epoch: int) -> str:
        """What stands beside the progress bar during an epoch: which it is, and how the one before it ended."""
        note, last = f"epoch {epoch + 1}/{self.config.epochs}", self.last_epoch
        return f"{note}, loss {last['loss']:.4g}, RankMe {last['rankme']:.1f}" if last else note

    def _batches(self, epoch: int) -> Any:
        return epoch_batches(
            self.pack,
            batch_size=self.config.batch_size,
            epoch=epoch,
            seed=self.config.seed,
            device=self.device,
            share=self.share,
            resident=self.resident,
        )

    def _fits_on_device(self) -> bool:
        if self.device.type != "cuda":
            return False
        free, _ = torch.cuda.mem_get_info(self.device)
        return bool(self.pack.frames.nbytes < free * RESIDENT_SHARE)

    def _log_step(self, epoch: int, loss: Tensor, grad_norm: Tensor, lr: float, rate: _Rate) -> None:
        self._require_finite()
        self._write_metrics(
            kind="step",
            step=self.step,
            epoch=epoch,
            loss=float(loss),
            lr=lr,
            grad_norm=_finite_or_none(float(grad_norm)),
            frames_per_s=rate.per_second(),
        )

    def _end_epoch(self, epoch: int, rate: _Rate) -> None:
        self._require_finite()
        frames_per_s = rate.per_second()
        features = self.monitor_features()
        if not bool(torch.isfinite(features).all()):
            # The last step's loss was still finite; what that step made of the weights is not.
            raise DivergedError(f"the features are not finite after epoch {epoch + 1} in {self.run}: {self._remedy()}")
        effective, std = rankme(features), feature_std(features)
        collapsed = is_collapsed(rank=effective, std=std, feature_dim=features.shape[1])
        self.last_epoch = {
            "epoch": epoch,
            "loss": float(self.epoch_loss) / self.steps_per_epoch,
            "rankme": effective,
            "feature_std": std,
            "collapsed": collapsed,
        }
        self._write_metrics(
            kind="epoch", step=self.step, **self.last_epoch, lr=self.optimizer.param_groups[0]["lr"],
            frames_per_s=frames_per_s,
        )  # fmt: skip
        if collapsed:
            _log.warning(
                "COLLAPSE after epoch %d: RankMe %.2f, feature std %.1e: all frames get nearly the same embedding. "
                "If it stays so, stop the run and start another with --optim recommended (or short, for few steps).",
                epoch + 1, effective, std,
            )  # fmt: skip
            self._update(collapsed=True, collapsed_epoch=epoch)
        self.epoch_loss.zero_()
        self.save()

    @torch.no_grad()
    def monitor_features(self) -> Tensor:
        """float32 [n, D]: pooled features of the fixed subset, which is spread evenly over the pack; equal in all
        processes, each of which encodes all of it.

        Never in bf16, whose rounding would lift the small singular values that RankMe looks at.
        """
        count = min(self.options.monitor_frames, len(self.pack))
        chosen = np.linspace(0, len(self.pack) - 1, count).astype(np.int64)
        encoder: Encoder = self.method.encoder
        encoder.eval()
        features = []
        with uncompiled(self.options.compile):
            for start in range(0, count, MONITOR_BATCH):
                rows = torch.from_numpy(self.pack.frames[chosen[start : start + MONITOR_BATCH]]).to(self.device)
                features.append(encoder(_fit(normalise(rows), self.config.image_size)))
        encoder.train()
        return torch.cat(features)

    def _require_finite(self) -> None:
        if not bool(torch.isfinite(self.epoch_loss)):
            raise DivergedError(
                f"the loss is {float(self.epoch_loss)} at step {self.step} of {self.total_steps} in {self.run}: "
                f"{self._remedy()}"
            )

    def _remedy(self) -> str:
        lr = self.optimizer.param_groups[0]["lr"]
        return (
            "--resume would come to the same point; start another run with --precision fp32, another --optim, or a "
            f"smaller --batch-size, with which the learning rate (now {lr:.3g}) falls; {self._kept()}"
        )

    # ---- time, checkpoints, files ---------------------------------------------------------------------------

    def wall_time_s(self) -> float:
        """Seconds that the run has taken, earlier sessions included."""
        return self.earlier_s + time.monotonic() - self.started

    def _out_of_time(self) -> bool:
        limit = self.options.max_minutes
        return limit is not None and said_by_first(time.monotonic() - self.started >= limit * 60)

    def _pause_or_save(self) -> bool:
        """Save when it is time to; True if the run has to stop here."""
        out_of_time = self._out_of_time()
        every = self.options.checkpoint_steps
        due = time.monotonic() - self.saved_at >= self.options.checkpoint_minutes * 60
        if out_of_time or due or (every is not None and self.step % every == 0):
            self._require_finite()
            self.save()
        return out_of_time

    def save(self) -> None:
        """Write the checkpoint."""
        self.saved_at = time.monotonic()
        if rank():
            return
        metrics = self.run / METRICS
        with self._writing("a checkpoint"):
            save_tensors(
                self.run / CHECKPOINT,
                {
                    "config": self.config.to_json(),
                    "pack_digest": self.pack.digest,
                    "threads": torch.get_num_threads(),
                    "processes": world_size(),
                    "step": self.step,
                    "epoch_loss": self.epoch_loss,
                    "last_epoch": self.last_epoch,
                    "metrics_bytes": metrics.stat().st_size if metrics.exists() else 0,
                    "wall_time_s": self.wall_time_s(),
                    "method": self.method.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                },
            )
        self.saved_step, self.saved_at = self.step, time.monotonic()

    def load(self) -> None:
        """Continue from the checkpoint; lines that the metrics got after it are cut off.

        Raises:
            ConfigError: no checkpoint, or one of another config or pack.
            DataError: damaged, or of another version.
        """
        path = self.run / CHECKPOINT
        if not path.is_file():
            raise ConfigError(f"{self.run} holds no {CHECKPOINT} to resume from: delete the folder and start anew")
        try:
            self._restore(load_tensors(path))
        except torch.OutOfMemoryError:
            raise
        except (KeyError, ValueError, RuntimeError, DataError) as error:
            raise DataError(f"{path} cannot be resumed from: {error}. Delete {self.run} and start anew") from error

    def _restore(self, saved: dict[str, Any]) -> None:
        differing = _differences(saved["config"], self.config.to_json())
        if differing:
            raise ConfigError(
                f"{self.run} was started with another config, which cannot change: {differing}. Resume with the "
                "settings that it has, or start another run"
            )
        if saved["pack_digest"] != self.pack.digest:
            raise ConfigError(
                f"{self.run} was started on another pack than {self.pack.path}: their digests differ. Resume with "
                "that pack, or start another run"
            )
        self._say_what_changed(saved)
        self.method.load_state_dict(saved["method"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.last_epoch = saved["step"], saved["last_epoch"]
        self.epoch_loss.copy_(saved["epoch_loss"])
        self.earlier_s, self.saved_step = saved["wall_time_s"], self.step
        if rank() == 0 and (self.run / METRICS).exists():
            os.truncate(self.run / METRICS, saved["metrics_bytes"])

    def _say_what_changed(self, saved: dict[str, Any]) -> None:
        # Checkpoints from before runs could be shared do not say how many processes there were.
        for name, before, now in (
            ("threads", saved["threads"], torch.get_num_threads()),
            ("processes", saved.get("processes", 1), world_size()),
        ):
            if before != now:
                _log.warning(
                    "resumed with %d %s after %d: the loss curve goes on, but not bit for bit", now, name, before
                )

    def open_run(self, command: str) -> None:
        """Write the config of a new run, and say in run.json what is running, on what, with what."""
        if rank() == 0:
            with self._writing(CONFIG):
                if not (self.run / CONFIG).exists():
                    write_json_atomic(self.run / CONFIG, self.config.to_json())
                # What a kill in the middle of a checkpoint left.
                for partial in self.run.glob(f".{CHECKPOINT}.*.partial"):
                    partial.unlink()
        self._update(
            status="running",
            **provenance(command),
            device=str(self.device),
            threads=torch.get_num_threads(),
            processes=world_size(),
            compiled=self.options.compile,
            session_started=datetime.now(UTC).isoformat(timespec="seconds"),
            session_first_step=self.step,
            total_steps=self.total_steps,
            pack={
                "path": str(self.pack.path),
                "digest": self.pack.digest,
                "source": self.pack.source,
                "split": self.pack.split,
                "frames": len(self.pack),
                "size": self.pack.size,
            },
        )

    def finish(self, status: str) -> Summary:
        """Write what remains of the run and sum it up."""
        if status != "paused" and rank() == 0:
            with self._writing("the encoder"):
                save_encoder(self.run, self.method.encoder)
        seconds = self.wall_time_s()
        frames_per_s = self.step * self.config.batch_size / seconds
        self._update(status=status, wall_time_s=seconds, frames_per_s=frames_per_s, **self.last_epoch)
        last = self.last_epoch
        return Summary(
            status=status,
            epochs_done=self.step // self.steps_per_epoch,
            loss=last.get("loss", math.nan),
            rankme=last.get("rankme", math.nan),
            feature_std=last.get("feature_std", math.nan),
            frames_per_s=frames_per_s,
            run=self.run,
        )

    def record_failure(self, error: BaseException) -> None:
        """Say in run.json that the run ended by `error`, if it can be said."""
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        # The error itself is worth more than a second one about a disk that is full.
        with suppress(RunWriteError):
            self._update(status=status, wall_time_s=self.wall_time_s())

    def _update(self, **fields: Any) -> None:
        if rank() == 0:
            with self._writing(RUN):
                update_run(self.run, **fields)

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            go_on = "delete the folder and start anew" if self.saved_step is None else "go on with --resume"
            raise RunWriteError(
                f"{self.run}: {what} cannot be written at step {self.step} ({error.strerror or error}); "
                f"{self._kept()}. Free space on that disk, or make the folder writable, then {go_on}"
            ) from error

    def _kept(self) -> str:
        return (
            "no checkpoint is there" if self.saved_step is None else f"{CHECKPOINT} of step {self.saved_step} is kept"
        )

    def _write_metrics(self, **fields: Any) -> None:
        if rank():
            return
        with self._writing(METRICS), (self.run / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(fields, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _advance_unseen(steps: int = 1, note: str = "") -> None:
    """Progress of a process that shows none."""


def _build_method(config: PretrainConfig, initial: Encoder | None) -> Method:
    with seeded_init(config.seed):
        encoder = build_encoder(config.encoder, image_size=config.image_size)
        if initial is not None:
            _start_from(initial, encoder)
        for view in config.method_config.views.views:
            encoder.check_view_size(view.size)
        return METHODS[config.method](encoder, config.method_config)


def _start_from(initial: Encoder, encoder: Encoder) -> None:
    try:
        encoder.load_state_dict(initial.state_dict())
    except RuntimeError as error:
        raise ConfigError(
            f"the encoder to start from, {initial.name} at {initial.image_size} px, does not fit {encoder.name} at "
            f"{encoder.image_size} px: train with --encoder {initial.name} --image-size {initial.image_size}"
        ) from error


class _Rate:
    """Frames per second since it was made."""

    def __init__(self) -> None:
        self.frames, self.start = 0, time.monotonic()

    def count(self, frames: int) -> None:
        self.frames += frames

    def per_second(self) -> float:
        return self.frames / max(time.monotonic() - self.start, 1e-9)


def _fit(images: Tensor, size: int) -> Tensor:
    """Resize [N, 3, S, S] to the encoder's size, antialiased, where the pack's frames are larger."""
    if images.shape[-1] == size:
        return images
    return torch.nn.functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _differences(saved: dict[str, Any], asked: dict[str, Any], prefix: str = "") -> str:
    """`key: saved -> asked` for all keys that differ, nested ones with dots; empty if none does."""
    found = []
    for key in sorted({*saved, *asked}):
        before, after = saved.get(key), asked.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found.append(_differences(before, after, f"{prefix}{key}."))
        elif before != after:
            found.append(f"{prefix}{key}: {before} -> {after}")
    return ", ".join(filter(None, found))
