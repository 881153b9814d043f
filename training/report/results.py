"""Read a study folder: its plan and every result in it, checked; nothing is taken on trust.

    RUNS/study.json         schema_version, settings, image_size, data, planned (ids in order)
    RUNS/<id>/result.json   one experiment, written last: a folder without it was started and has not finished

An id is `<method>-<encoder>-p<per cent of defects, or "all" without the p>-s<seed>`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from serving.errors import DataError
from training.report.names import kind_of

STUDY, RESULT = "study.json", "result.json"
SCHEMA_VERSION = 1
KINDS = ("ssl", "random", "transferred", "supervised", "finetuned")
STATUSES = ("finished", "collapsed", "diverged")
RULES = ("published", "chosen")
# Settings of the plan that a self-supervised result repeats, and where it does.
_REPEATED = {"optim": "", "views": "", "epochs": "pretraining", "batch_size": "pretraining"}
_ID = re.compile(r"(?P<method>[a-z0-9_]+)-(?P<encoder>[a-z0-9_]+)-(?P<share>all|p[0-9.]+)-s(?P<seed>[0-9]+)")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One data set: `auroc` and `average_precision` are None where a class is missing; `rules` is rule -> metrics."""

    n: int
    n_defect: int
    auroc: float | None
    average_precision: float | None
    rules: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What an id says; `defect_proportion` None is the whole split."""

    id: str
    method: str
    encoder: str
    defect_proportion: float | None
    seed: int


@dataclass(frozen=True, kw_only=True)
class Result:
    """One result.json. Attributes that are mappings are as the file has them.

    Attributes:
        classes: data set -> multi-label scores; empty where classes are unknown.
        label_free: metric -> value, None where the embeddings leave it undefined.
    """

    identity: Identity
    kind: str
    optim: str | None
    views: str | None
    status: str
    train: Mapping[str, Any]
    pretraining: Mapping[str, Any] | None
    evaluations: Mapping[str, Evaluation]
    classes: Mapping[str, Mapping[str, Any]]
    label_free: Mapping[str, float | None]
    wall_time_s: float
    command: str
    git_revision: str
    packages: Mapping[str, str]
    hardware: str

    @property
    def id(self) -> str:
        return self.identity.id

    @property
    def method(self) -> str:
        return self.identity.method


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study folder.

    Attributes:
        settings, data: of study.json.
        planned: every experiment, in the plan's order.
        results: those that have one, in that order.
        unfinished: ids that were started and have no result.
    """

    settings: Mapping[str, Any]
    image_size: int | None
    data: Mapping[str, Mapping[str, Any]]
    planned: tuple[Identity, ...]
    results: tuple[Result, ...]
    unfinished: tuple[str, ...]

    @property
    def not_started(self) -> tuple[str, ...]:
        """Ids that are planned and were not begun."""
        begun = {result.id for result in self.results} | set(self.unfinished)
        return tuple(identity.id for identity in self.planned if identity.id not in begun)


def read_study(runs: Path) -> Study:
    """Read RUNS/study.json and all RUNS/*/result.json.

    Raises:
        DataError: not a study, no result, or a file that is broken, of another schema version or of another study;
            the message names the file.
    """
    path = runs / STUDY
    if not path.is_file():
        raise DataError(f"{runs} is not a study: it holds no {STUDY}; name the folder `pipeprobe-train sweep` wrote to")
    plan = _Fields(_read_json(path), path)
    plan.check_version()
    settings, planned = plan.take("settings", dict), plan.take("planned", list)
    identities = [_identity(name, path) for name in planned]
    if len({identity.id for identity in identities}) != len(identities):
        plan.refuse("names an experiment twice under `planned`")
    found = {file.parent.name: file for file in sorted(runs.glob(f"*/{RESULT}"))}
    if not found:
        raise DataError(
            f"{runs} holds no result yet: none of its {len(identities)} planned experiments has written {RESULT}; "
            "start or continue it with `pipeprobe-train sweep`"
        )
    _refuse_unplanned(found, identities)
    return Study(
        settings=settings,
        image_size=plan.take("image_size", int, type(None)),
        data={split: plan.inner("data").take(split, dict) for split in plan.take("data", dict)},
        planned=tuple(identities),
        results=tuple(
            _read_result(found[identity.id], identity, settings) for identity in identities if identity.id in found
        ),
        unfinished=tuple(
            identity.id for identity in identities if identity.id not in found and (runs / identity.id).is_dir()
        ),
    )


def _refuse_unplanned(found: Mapping[str, Path], planned: list[Identity]) -> None:
    names = {identity.id for identity in planned}
    for name, path in found.items():
        if name not in names:
            raise DataError(f"{path} is a result of another study: {STUDY} does not plan {name}; move it elsewhere")


def _read_result(path: Path, identity: Identity, settings: Mapping[str, Any]) -> Result:
    fields = _Fields(_read_json(path), path)
    fields.check_version()
    _check_identity(fields, identity)
    kind, status = fields.choice("kind", KINDS), fields.choice("status", STATUSES)
    if kind != kind_of(identity.method):
        fields.refuse(f"says kind {kind!r}, and {identity.method} is {kind_of(identity.method)!r}")
    evaluations = fields.inner("evaluations")
    if status == "finished" and not evaluations.names:
        fields.refuse("is finished and holds no evaluation")
    result = Result(
        identity=identity,
        kind=kind,
        optim=fields.take("optim", str, type(None)),
        views=fields.take("views", str, type(None)),
        status=status,
        train=fields.take("train", dict),
        pretraining=fields.take("pretraining", dict, type(None)),
        evaluations={name: _evaluation(evaluations.inner(name)) for name in evaluations.names},
        classes=fields.take("classes", dict),
        label_free={name: fields.inner("label_free").number(name) for name in fields.inner("label_free").names},
        wall_time_s=fields.needed("wall_time_s"),
        command=fields.take("command", str),
        git_revision=fields.take("git_revision", str),
        packages=fields.take("packages", dict),
        hardware=fields.take("hardware", str),
    )
    _check_settings(fields, result, settings)
    return result


def _check_identity(fields: _Fields, identity: Identity) -> None:
    """The folder's name, the id, and the fields that the id is made of must agree."""
    expected = {name: getattr(identity, name) for name in ("id", "method", "encoder", "seed", "defect_proportion")}
    for name, value in expected.items():
        found = fields.take(name, str, int, float, type(None))
        # 0.02 and 2 / 100 need not be the same float.
        close = isinstance(found, float) and isinstance(value, float) and math.isclose(found, value)
        if not close and found != value:
            fields.refuse(f"says {name} {found!r}, and lies in the folder of {identity.id}")


def _check_settings(fields: _Fields, result: Result, settings: Mapping[str, Any]) -> None:
    if result.kind != "ssl":
        return
    for name, part in _REPEATED.items():
        holder: Mapping[str, Any] | None = getattr(result, part) if part else vars(result)
        found = None if holder is None else holder.get(name)
        if found is not None and name in settings and found != settings[name]:
            fields.refuse(
                f"is a result of another study: {name} is {found!r} there and {settings[name]!r} in {STUDY}; "
                "move it elsewhere"
            )


def _evaluation(fields: _Fields) -> Evaluation:
    rules = {rule: fields.inner(rule) for rule in RULES}
    return Evaluation(
        n=fields.take("n", int),
        n_defect=fields.take("n_defect", int),
        auroc=fields.number("auroc"),
        average_precision=fields.number("average_precision"),
        rules={
            rule: {name: part.needed(name) if name == "threshold" else part.share(name) for name in part.names}
            for rule, part in rules.items()
        },
    )


def _identity(name: Any, path: Path) -> Identity:
    match = _ID.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise DataError(f"{path} plans {name!r}, which is no id of the form <method>-<encoder>-p<per cent>-s<seed>")
    share = match["share"]
    return Identity(
        id=match[0],
        method=match["method"],
        encoder=match["encoder"],
        defect_proportion=None if share == "all" else float(share[1:]) / 100,
        seed=int(match["seed"]),
    )


class _Fields:
    """A JSON object of one file, checked as its fields are taken; errors name the file and the field."""

    def __init__(self, value: Any, path: Path, where: str = "") -> None:
        self._path, self._where = path, where
        if not isinstance(value, dict):
            self.refuse(f"must hold a JSON object{' under ' + where if where else ''}, not {type(value).__name__}")
        self._value: dict[str, Any] = value

    @property
    def names(self) -> list[str]:
        return list(self._value)

    def refuse(self, what: str) -> NoReturn:
        raise DataError(f"{self._path} {what}")

    def check_version(self) -> None:
        version = self.take("schema_version", int)
        if version != SCHEMA_VERSION:
            self.refuse(
                f"has schema version {version}, and this version of pipeprobe reads {SCHEMA_VERSION}: "
                "make the report with the version that made the results"
            )

    def take(self, name: str, *types: type) -> Any:
        if name not in self._value:
            self.refuse(f"lacks `{self._where}{name}`: the file is cut short or not of this schema")
        value = self._value[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            self.refuse(f"says `{self._where}{name}` is {value!r}, not a {' or '.join(t.__name__ for t in types)}")
        return value

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        value: str = self.take(name, str)
        if value not in choices:
            self.refuse(f"says `{self._where}{name}` is {value!r}, not one of {', '.join(choices)}")
        return value

    def number(self, name: str) -> float | None:
        value = self.take(name, int, float, type(None))
        return None if value is None else float(value)

    def needed(self, name: str) -> float:
        return float(self.take(name, int, float))

    def share(self, name: str) -> float:
        """A number in [0, 1], as every metric at a threshold is."""
        value = self.needed(name)
        if not 0 <= value <= 1:
            self.refuse(f"says `{self._where}{name}` is {value}, which is not in [0, 1]")
        return value

    def inner(self, name: str) -> _Fields:
        return _Fields(self.take(name, dict), self._path, f"{self._where}{name}.")


def _read_json(path: Path) -> Any:
    def refuse_constant(text: str) -> NoReturn:
        raise ValueError(f"{text} is not JSON")

    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)
    except (ValueError, OSError) as error:
        remedy = "; remove it, and `pipeprobe-train sweep` runs its experiment again" if path.name == RESULT else ""
        raise DataError(f"{path} cannot be read as JSON: {error}{remedy}") from error
