"""The whole way on footage small enough to make here, killed and continued, and each way in which it can go wrong."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from support.datasets import write_folders
from support.tiny_pair import write_tiny_pair
from support.video_files import write_video

from serving.errors import ConfigError, DataError
from serving.pairs.pair import find_pair, load_pair, models_root, pair_folders
from training import runs
from training.cli import cli
from training.data.pack import open_pack
from training.features import encoder_digest
from training.loop import LoopOptions, pretrain
from training.retrain import learn
from training.retrain import run as module
from training.retrain.estimate import Estimate
from training.retrain.job import Outcome, RetrainConfig, RetrainOptions, Weighed
from training.retrain.run import retrain
from training.retrain.split import SplitPlan
from training.retrain.start import Start

SECONDS = 6
# At the shipped pair's 112 px, where everything costs more.
SHORT: dict[str, Any] = {"every_s": 1.0, "epochs": 1, "batch_size": 8}
STAGES = ["estimate", "frames-32", "split", "pack", "recipe", "pretrain", "probe", "compare"]


class Killed(BaseException):
    """As if the process had been killed at that moment."""


class Log:
    """Everything that was said; dies after the stage `kill_after`."""

    def __init__(self, kill_after: str | None = None) -> None:
        self.worked: list[str] = []
        self.kept: list[str] = []
        self.said: list[str] = []
        self.expected: list[Estimate] = []
        self.weighed: Weighed | None = None
        self._kill_after = kill_after

    def begun(self, stage: str, reason: str) -> None:
        if reason:
            self.said.append(f"{stage} again: {reason}")

    def done(self, stage: str, kept: bool, seconds: float) -> None:
        (self.kept if kept else self.worked).append(stage)
        if stage == self._kill_after and not kept:
            raise Killed

    def say(self, text: str) -> None:
        self.said.append(text)

    def expect(self, estimate: Estimate, start: Start) -> None:
        self.expected.append(estimate)

    def compare(self, weighed: Weighed) -> None:
        self.weighed = weighed

    def heard(self, text: str) -> bool:
        return any(text in line for line in self.said)


def paint_pipe(number: int, start_s: float) -> Any:
    """A noisy grey pipe, its own shade each, that is red for two seconds from `start_s`."""
    rng = np.random.default_rng(number)

    def paint(time_s: float) -> NDArray[np.uint8]:
        picture = 90 + 6 * number + rng.normal(0, 12, (48, 64, 3))
        if start_s <= time_s < start_s + 2:
            picture[..., 0] += 90
            picture[..., 1:] -= 40
        return np.clip(picture, 0, 255).astype(np.uint8)

    return paint


def write_footage(root: Path, *, videos: int = 8) -> tuple[Path, Path]:
    """A folder of videos, and the labels file beside it."""
    root.mkdir(parents=True)
    rows = ["Video,From_s,To_s,Label"]
    for number in range(videos):
        start_s = 1 + number % 3
        name = f"run-{number}.avi"
        write_video(root / name, paint_pipe(number, start_s), seconds=SECONDS, codec="mpeg4", fps=5, gop=5)
        rows += [f"{name},{start_s},{start_s + 2},defect", f"{name},{start_s + 2},{SECONDS},normal"]
    labels = root.with_name(f"{root.name}.csv")
    labels.write_text("\n".join(rows) + "\n")
    return root, labels


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_footage(tmp_path_factory.mktemp("footage") / "videos")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of pairs whose default calls red frames defects."""
    write_tiny_pair(tmp_path / "models")
    return tmp_path / "models"


def config_for(footage: tuple[Path, Path], **changes: Any) -> RetrainConfig:
    small: dict[str, Any] = {"every_s": 0.5, "epochs": 2, "batch_size": 16}
    return RetrainConfig(footage=(str(footage[0]),), labels=(str(footage[1]),), **small | changes)


def scratch(footage: tuple[Path, Path], **changes: Any) -> RetrainConfig:
    # After fewer epochs a probe of this encoder tells nothing apart, and nothing could be exported.
    return config_for(footage, from_scratch=True, image_size=32, **{"epochs": 3} | changes)


def options_for(models: Path, **changes: Any) -> RetrainOptions:
    return RetrainOptions(models=models, variants=("fp32",), workers=1, command="typed", **changes)


def files_of(out: Path) -> dict[str, bytes]:
    """What decides what is served, and what is said about it."""
    names = ("split.csv", "packs/pretrain/frames.u8", "packs/test/frames.u8", "run/encoder.pt", "run/probe/probe.npz")
    comparison = json.loads((out / "comparison.json").read_text())["measured"]
    return {name: (out / name).read_bytes() for name in names} | {"comparison": json.dumps(comparison).encode()}


def copy_of(out: Path, tmp_path: Path) -> Path:
    """A copy of an output folder, without the checkpoint, which is large and which only an unfinished run needs."""
    return shutil.copytree(out, tmp_path / "out", ignore=shutil.ignore_patterns(runs.CHECKPOINT))


# ---- as a user goes: the shipped pair, videos, labels ----------------------------------------------------------


@pytest.fixture(scope="module")
def finished(footage: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Log, Outcome]:
    """Folder of pairs with the shipped one, output folder, what was said, how it ended."""
    root = tmp_path_factory.mktemp("finished")
    shipped = find_pair(models_root()).path
    (root / "models").mkdir()
    (root / "models" / shipped.name).symlink_to(shipped)
    shutil.copy(models_root() / "index.json", root / "models")
    log = Log()
    outcome = retrain(config_for(footage, **SHORT), options_for(root / "models"), root / "out", log)
    return root / "models", root / "out", log, outcome


def test_a_new_pair_comes_out_that_beats_the_shipped_one(finished: tuple[Path, Path, Log, Outcome]) -> None:
    models, _, log, outcome = finished
    default = find_pair(models)
    assert outcome.weighed.default == default.name
    assert outcome.weighed.verdict == "better"
    assert outcome.weighed.measured["auroc"].new.value > 0.9
    assert (
        set(outcome.weighed.measured)
        == set(outcome.weighed.other)
        == {"auroc", "f1", "precision", "recall", "false_alarms"}
    )
    assert outcome.pair == models / f"{default.name}-retrained"
    manifest = load_pair(outcome.pair).manifest
    assert (manifest.encoder, manifest.method, manifest.image_size) == ("resnet18", "simclr", 112)
    assert {metric.data for metric in manifest.metrics} == {"train", "val", "held-out"}
    assert manifest.validated_on == "footage videos; not validated on anything else"
    assert find_pair(models).name == default.name, "nothing is promoted unasked"
    assert log.worked == [
        "estimate",
        "frames-112",
        "split",
        "pack",
        "initial",
        "recipe",
        "pretrain",
        "probe",
        "compare",
        "export",
    ]
    assert log.heard("8 videos, 8 of them with labels; 0 images")


def test_the_estimate_comes_first_and_knows_the_work(finished: tuple[Path, Path, Log, Outcome]) -> None:
    (expected,) = finished[2].expected
    assert expected.video_frames == pytest.approx(8 * (SECONDS + 1), rel=0.1)
    assert expected.epochs == 1
    assert min(expected.step_s, expected.extract_s, expected.pretrain_s, expected.measure_s) > 0
    assert expected.total_s > expected.pretrain_s


def test_held_out_inspections_are_nowhere_else(finished: tuple[Path, Path, Log, Outcome]) -> None:
    _, out, _, outcome = finished
    lines = [line.split(",") for line in (out / "split.csv").read_text().splitlines()[1:]]
    parts: dict[str, set[str]] = {}
    for _, inspection, _, part in lines:
        parts.setdefault(inspection, set()).add(part)
    assert len(parts) == 8
    assert all(len(part) == 1 for part in parts.values())
    videos = {
        name: {frame.partition("@")[0] for frame in open_pack(out / "packs" / name).names}
        for name in ("pretrain", "train", "val", "test")
    }
    assert videos["train"] == videos["pretrain"]
    assert not videos["pretrain"] & videos["val"]
    assert not videos["test"] & (videos["pretrain"] | videos["val"])
    assert len(videos["test"]) == outcome.weighed.inspections
    # Frames before the defect have no label: pretraining sees them, the probe does not.
    assert len(open_pack(out / "packs" / "pretrain")) > len(open_pack(out / "packs" / "train"))


def test_the_same_command_keeps_everything_and_promotes_when_asked(
    footage: tuple[Path, Path], finished: tuple[Path, Path, Log, Outcome]
) -> None:
    models, out, _, outcome = finished
    words = f"retrain --footage {footage[0]} --labels {footage[1]} --every 1 --epochs 1 --batch-size 8 --out {out} "
    words += f"--models {models} --variants fp32 --workers 1"
    result = CliRunner().invoke(cli, words.split(), env={"COLUMNS": "140"}, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.output.count("kept from before") == 9
    assert "..." not in result.output, "no stage had work to do"
    for text in (
        "Expected, as measured",
        "Held out:",
        "AUROC",
        "false alarms",
        "BETTER",
        "The rule:",
        "with --promote",
    ):
        assert text in result.output
    before = find_pair(models).name
    promoted = CliRunner().invoke(cli, [*words.split(), "--promote"], env={"COLUMNS": "140"}, catch_exceptions=False)
    assert outcome.pair is not None
    assert find_pair(models).name == outcome.pair.name
    assert f"To go back to {before}: pipeprobe models rollback --models {models}" in promoted.output.replace("\n", "")
    # The pair to compare with was settled at the beginning, and is still the old one.
    assert f"default: {before}" in promoted.output


def test_killed_right_after_the_export_it_does_not_export_twice(
    footage: tuple[Path, Path], finished: tuple[Path, Path, Log, Outcome], tmp_path: Path
) -> None:
    models, _, _, outcome = finished
    out = copy_of(finished[1], tmp_path)
    (out / "stages" / "export.json").unlink()
    again = retrain(config_for(footage, **SHORT), options_for(models), out, Log())
    assert again.pair == outcome.pair
    assert len(pair_folders(models)) == 2
    taken = find_pair(models, outcome.weighed.default)
    with pytest.raises(ConfigError, match="exists and pairs are never overwritten: give another version or name"):
        retrain(config_for(footage, **SHORT), options_for(models, name=taken.name, version=taken.version), out, Log())


# ---- kills and damage ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(footage: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The output of a run that nothing disturbed, without the export, and its folder of pairs."""
    root = tmp_path_factory.mktemp("undisturbed")
    write_tiny_pair(root / "models")
    with pytest.raises(Killed):
        retrain(scratch(footage), options_for(root / "models"), root / "out", Log(kill_after="compare"))
    return root / "out", root / "models"


def test_killed_after_every_stage_it_ends_the_same(
    footage: tuple[Path, Path], undisturbed: tuple[Path, Path], models: Path, tmp_path: Path
) -> None:
    for number, stage in enumerate(STAGES):
        log = Log(kill_after=stage)
        with pytest.raises(Killed):
            retrain(scratch(footage), options_for(models), tmp_path / "out", log)
        assert log.worked == [stage]
        assert log.kept == STAGES[:number]
    assert files_of(tmp_path / "out") == files_of(undisturbed[0])


def test_killed_while_pretraining_it_goes_on_from_the_checkpoint(
    footage: tuple[Path, Path],
    undisturbed: tuple[Path, Path],
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def pretrain_an_epoch(*arguments: Any, options: LoopOptions, **rest: Any) -> None:
        pretrain(*arguments, options=replace(options, max_minutes=1e-6), **rest)
        raise Killed

    monkeypatch.setattr(learn, "pretrain", pretrain_an_epoch)
    with pytest.raises(Killed):
        retrain(scratch(footage), options_for(models), tmp_path / "out", Log())
    monkeypatch.undo()
    assert runs.read_json(tmp_path / "out" / "run" / "run.json")["status"] == "paused"
    log = Log(kill_after="compare")
    with pytest.raises(Killed):
        retrain(scratch(footage), options_for(models), tmp_path / "out", log)
    assert log.worked == ["pretrain", "probe", "compare"]
    assert "recipe" in log.kept
    assert runs.read_json(tmp_path / "out" / "run" / "run.json")["session_first_step"] > 0
    assert files_of(tmp_path / "out") == files_of(undisturbed[0])


def test_what_is_damaged_is_noticed_and_made_again(
    footage: tuple[Path, Path], undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    out = copy_of(undisturbed[0], tmp_path)
    expected = files_of(out)
    next((out / "frames-32").rglob("*.png")).unlink()
    (out / "split.csv").write_text("")
    frames = bytearray((out / "packs" / "test" / "frames.u8").read_bytes())
    frames[1000] ^= 1
    (out / "packs" / "test" / "frames.u8").write_bytes(frames)
    (out / "run" / "encoder.pt").write_bytes(b"half")
    (out / "run" / "probe" / "probe.npz").unlink()
    (out / "comparison.json").unlink()
    log = Log(kill_after="compare")
    with pytest.raises(Killed):
        retrain(scratch(footage), options_for(undisturbed[1]), out, log)
    assert log.kept == ["estimate", "recipe"]
    assert files_of(out) == expected


def test_more_labels_make_again_what_depends_on_them_and_nothing_else(
    footage: tuple[Path, Path], undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    out = copy_of(undisturbed[0], tmp_path)
    lines = footage[1].read_text().splitlines()
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join([*lines, "run-0.avi,0,1,normal"]) + "\n")
    log = Log(kill_after="compare")
    with pytest.raises(Killed):
        retrain(scratch((footage[0], labels)), options_for(undisturbed[1]), out, log)
    assert log.kept == ["frames-32"]
    assert log.heard("split again: what it is made of has changed")
    rows = [line for line in (out / "split.csv").read_text().splitlines() if line.startswith("run-0.avi@0.")]
    assert rows
    assert all(",normal," in row for row in rows)
    packed = [open_pack(out / "packs" / name) for name in ("pretrain", "val", "test")]
    assert sum(int((pack.labels >= 0).sum()) for pack in packed) > sum(
        int((open_pack(undisturbed[0] / "packs" / name).labels >= 0).sum()) for name in ("pretrain", "val", "test")
    )


def test_other_lengths_train_again_on_the_same_packs(
    footage: tuple[Path, Path], undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    out = copy_of(undisturbed[0], tmp_path)
    log = Log(kill_after="pretrain")
    with pytest.raises(Killed):
        retrain(scratch(footage, epochs=1), options_for(undisturbed[1]), out, log)
    assert log.kept == ["frames-32", "split", "pack"]
    assert runs.read_json(out / "run" / "config.json")["epochs"] == 1


def test_other_footage_or_another_start_need_another_folder(
    footage: tuple[Path, Path], undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    out, models = undisturbed
    copied = (shutil.copytree(footage[0], tmp_path / "videos"), footage[1])
    with pytest.raises(ConfigError, match=r"other settings \(footage: .*another --out to start anew"):
        retrain(scratch(copied), options_for(models), out, Log())
    with pytest.raises(ConfigError, match=r"other settings \(from_scratch: True there, False now"):
        retrain(config_for(footage), options_for(models), out, Log())


def test_a_default_pair_that_was_replaced_meanwhile_is_noticed(
    footage: tuple[Path, Path], undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    out = copy_of(undisturbed[0], tmp_path)
    write_tiny_pair(tmp_path / "models", version="2.0.0")
    with pytest.raises(ConfigError, match=r"tiny@1\.0\.0, which .* has been replaced since"):
        retrain(scratch(footage), options_for(tmp_path / "models"), out, Log())


def test_a_full_disk_is_foreseen(
    footage: tuple[Path, Path], models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match=r"0.0 GiB free: free some space, give --out on another disk.*--every"):
        retrain(scratch(footage), options_for(models), tmp_path / "out", Log())


# ---- what is exported, and what is not -------------------------------------------------------------------------


def test_labels_that_say_nothing_end_without_a_pair(footage: tuple[Path, Path], models: Path, tmp_path: Path) -> None:
    lines = footage[1].read_text().splitlines()
    rng = np.random.default_rng(0)
    # Which half of a video is called what is a matter of chance.
    for row in range(1, len(lines), 2):
        if rng.random() < 0.5:
            first, second = lines[row].rpartition(",")[0], lines[row + 1].rpartition(",")[0]
            lines[row], lines[row + 1] = f"{first},normal", f"{second},defect"
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(lines) + "\n")
    outcome = retrain(scratch((footage[0], labels), epochs=1), options_for(models), tmp_path / "out", Log())
    assert outcome.weighed.verdict in ("knows nothing", "unclear", "worse")
    assert outcome.pair is None
    assert pair_folders(models) == ["tiny"]


def test_photographs_in_folders_compared_at_the_default_pairs_own_size(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_tiny_pair(models, size=40)
    photos = write_folders(tmp_path / "photos", defect=24, normal=24, unlabelled=8, size=48)
    (photos / "defect" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    config = RetrainConfig(
        footage=(str(photos),), from_scratch=True, image_size=32, epochs=1, batch_size=8, split=SplitPlan(seed=1)
    )
    log = Log(kill_after="compare")
    with pytest.raises(Killed):
        retrain(config, options_for(models), tmp_path / "out", log)
    assert log.heard("0 videos, 0 of them with labels; 57 images, 49 of them with labels")
    assert log.heard("left out: defect/broken.jpg")
    assert log.heard("nothing says which inspection 57 images are of")
    at_default, test = open_pack(tmp_path / "out" / "packs" / "test-40"), open_pack(tmp_path / "out" / "packs" / "test")
    assert at_default.names == test.names
    assert at_default.size == 40
    measured = json.loads((tmp_path / "out" / "comparison.json").read_text())["measured"]["run"]
    assert 0 <= measured["auroc"]["default"]["value"] <= 1


def test_videos_are_read_again_at_the_default_pairs_own_size(
    footage: tuple[Path, Path], undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    write_tiny_pair(tmp_path / "models", size=40)
    log = Log(kill_after="compare")
    with pytest.raises(Killed):
        retrain(scratch(footage, epochs=1), options_for(tmp_path / "models"), tmp_path / "out", log)
    assert log.worked.index("frames-40") > log.worked.index("probe")
    measured = json.loads((tmp_path / "out" / "comparison.json").read_text())["measured"]["run"]
    # Red is what the tiny pair knows.
    assert measured["auroc"]["default"]["value"] > 0.95


def test_without_a_default_pair_there_is_nothing_to_compare(
    footage: tuple[Path, Path], undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    out = copy_of(undisturbed[0], tmp_path)
    begun = runs.read_json(out / "retrain.json")
    (out / "retrain.json").write_text(json.dumps(begun | {"default": None}))
    outcome = retrain(scratch(footage), options_for(tmp_path / "models"), out, Log())
    assert outcome.weighed.default is None
    assert outcome.weighed.verdict is None
    assert not outcome.weighed.measured
    assert outcome.pair == tmp_path / "models" / "simclr-resnet18-retrained"
    assert find_pair(tmp_path / "models").path == outcome.pair


def test_a_run_folder_to_start_from(footage: tuple[Path, Path], undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    run = undisturbed[0] / "run"
    log = Log(kill_after="initial")
    with pytest.raises(Killed):
        retrain(config_for(footage, init=str(run)), options_for(undisturbed[1]), tmp_path / "out", log)
    started, _ = runs.load_encoder(tmp_path / "out" / "initial")
    assert encoder_digest(started) == encoder_digest(runs.load_encoder(run)[0])
    begun = runs.read_json(tmp_path / "out" / "retrain.json")["start"]
    assert (begun["kind"], begun["method"], begun["image_size"]) == ("run", "simclr", 32)


# ---- mistakes, as the command line tells them ------------------------------------------------------------------


def fail(tmp_path: Path, *arguments: str | Path) -> str:
    """The message of a call that is refused; nothing of it stays but the lock."""
    out = tmp_path / "out"
    with pytest.raises((ConfigError, DataError)) as caught:
        CliRunner().invoke(
            cli, ["retrain", *map(str, arguments), "--out", str(out)], catch_exceptions=False, standalone_mode=False
        )
    assert not out.exists() or [path.name for path in out.iterdir()] == [".lock"]
    return str(caught.value)


def test_mistakes_end_before_any_work(footage: tuple[Path, Path], models: Path, tmp_path: Path) -> None:
    folder, labels = footage
    here = ("--footage", folder, "--models", models)
    missing = tmp_path / "missing.csv"
    missing.write_text("Video,Time_s,Label\nrun-0.avi,1,defect\nrun-99.avi,2,normal\n")
    assert "line 3: run-99.avi (is it run-" in fail(tmp_path, *here, "--labels", missing)
    assert "no frame is labelled defect" in fail(tmp_path, *here)
    few = tmp_path / "few.csv"
    few.write_text("\n".join(labels.read_text().splitlines()[:9]) + "\n")
    message = fail(tmp_path, *here, "--labels", few)
    assert "at least 6 must have defect labels and 6 normal ones; there are 4 and 4" in message
    good = (*here, "--labels", labels)
    assert "cannot be trained on" in fail(tmp_path, *good)
    assert "give one of them" in fail(tmp_path, *good, "--from-scratch", "--init", "tiny")
    assert "give --from-scratch too" in fail(tmp_path, *good, "--encoder", "vit_tiny")
    assert "vit_tiny takes patches" in fail(
        tmp_path, *good, "--from-scratch", "--encoder", "vit_tiny", "--image-size", "100"
    )
    assert "no recipe for mae on resnet18" in fail(tmp_path, *good, "--from-scratch", "--method", "mae")
    assert "give one of them" in fail(tmp_path, *good, "--epochs", "3", "--minutes", "3")
    assert "shares are three numbers" in fail(tmp_path, *good, "--shares", "60,40")


def test_few_inspections_can_be_cut_if_one_insists(footage: tuple[Path, Path], models: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.csv"
    few.write_text("\n".join(footage[1].read_text().splitlines()[:5]) + "\n")
    config = scratch((footage[0], few), every_s=0.2, split=SplitPlan(within=True))
    log = Log(kill_after="split")
    with pytest.raises(Killed):
        retrain(config, options_for(models), tmp_path / "out", log)
    parts = {tuple(line.split(",")[1::2]) for line in (tmp_path / "out" / "split.csv").read_text().splitlines()[1:]}
    assert {part for video, part in parts if video == "run-0.avi"} == {"train", "val", "test"}


def test_ctrl_c_says_that_the_same_command_goes_on(
    footage: tuple[Path, Path], models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.commands.retrain.retrain", stop)
    result = CliRunner().invoke(cli, ["retrain", "--footage", str(footage[0]), "--models", str(models)])
    assert result.exit_code == 1
    assert "stopped; the same command goes on from here" in result.output
