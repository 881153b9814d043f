"""Pipe worlds: what a pipe run is made of and what is wrong with it, as plain numbers drawn from a seed.

A world says *what* is *where*; `render.Renderer` turns it into pictures. Everything about the look of a pipe
(material, water, stains, wetness) is drawn before and independently of its defects, so that nothing global
gives a label away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np

from serving.errors import ConfigError
from training.data.classes import CLASS_CODES

Profile = Literal["standard", "shifted"]
PROFILES: tuple[str, ...] = get_args(Profile)

MATERIALS: dict[str, dict[str, float]] = {
    # Share of each material in the pipes drawn.
    "standard": {"concrete": 0.38, "clay": 0.24, "pvc": 0.16, "liner": 0.14, "brick": 0.08},
    "shifted": {"iron": 0.25, "grp": 0.25, "vitrified": 0.30, "cement": 0.20},
}
# Joint spacings (m) that each material is laid with; 0 means no joints to be seen.
_SPACINGS: dict[str, tuple[float, ...]] = {
    "concrete": (1.0, 1.5, 2.0, 2.5),
    "clay": (0.8, 1.0, 1.25, 1.5, 2.0),
    "pvc": (2.0, 2.5, 3.0),
    "liner": (0.0,),
    "brick": (0.0,),
    "iron": (2.0, 2.5, 3.0),
    "grp": (2.0, 3.0),
    "vitrified": (0.6, 0.75, 1.0, 1.5),
    "cement": (0.9, 1.2, 2.0),
}
_DIAMETERS: tuple[float, ...] = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8, 1.0)
_DIAMETER_SHARES: tuple[float, ...] = (0.08, 0.2, 0.2, 0.2, 0.08, 0.09, 0.07, 0.04, 0.03, 0.01)

# Classes that happen where two pipes meet; they are moved to the nearest joint where there is one.
JOINT_CODES: frozenset[str] = frozenset({"FS", "IS"})
OFTEN_AT_JOINT: dict[str, float] = {"RO": 0.75, "IN": 0.6, "BE": 0.25, "RB": 0.25, "OK": 0.5}
_CONNECTIONS: frozenset[str] = frozenset({"GR", "PH", "PB", "OS", "OP"})

# Things that are no defect but look like one to a histogram.
DECOR_KINDS: tuple[str, ...] = (
    "dark_patch",
    "wet_streak",
    "rust_streak",
    "lime_bloom",
    "drips",
    "scuff",
    "repair_collar",
    "slime_strands",
    "leaves",
)
PLACE_GAP_M = 1.2


@dataclass(frozen=True, kw_only=True)
class Defect:
    """One defect: class code, middle along the pipe, extent, clock position, severity in 0..1.

    `place` counts the places along the pipe: defects that were asked for together share one.
    """

    code: str
    distance_m: float
    length_m: float
    clock: float
    severity: float
    seed: int
    place: int = 0

    def __post_init__(self) -> None:
        if self.code not in CLASS_CODES:
            raise ConfigError(f"defect: unknown class {self.code!r}; the classes are {', '.join(CLASS_CODES)}")
        if not (0.0 <= self.severity <= 1.0 and 0.0 <= self.clock <= 12.0 and self.length_m > 0):
            raise ConfigError(
                f"defect {self.code} at {self.distance_m:.2f} m: severity {self.severity} must be in 0..1, "
                f"clock {self.clock} in 0..12, length_m {self.length_m} above 0"
            )


@dataclass(frozen=True, kw_only=True)
class Decor:
    """A harmless feature of the wall (a hard normal): one of DECOR_KINDS, placed like a defect."""

    kind: str
    distance_m: float
    length_m: float
    clock: float
    strength: float
    seed: int

    def __post_init__(self) -> None:
        if self.kind not in DECOR_KINDS:
            raise ConfigError(f"decor: unknown kind {self.kind!r}; the kinds are {', '.join(DECOR_KINDS)}")


@dataclass(frozen=True, kw_only=True)
class PipeWorld:
    """A pipe run. Lengths in metres, `water_level` as a share of the diameter, the rest in 0..1.

    stain: how dirty the walls are; wetness: how glossy; biofilm: slime round the waterline; water_murk: how
    opaque the water is; joint_wear: how open and stained healthy joints are. joint_spacing_m is 0 for pipes
    without visible joints (brick, liner); the first joint lies at joint_phase_m.
    """

    seed: int
    profile: Profile
    material: str
    diameter_m: float
    length_m: float
    water_level: float
    joint_spacing_m: float
    joint_phase_m: float
    stain: float
    wetness: float
    biofilm: float
    water_murk: float
    joint_wear: float
    defects: tuple[Defect, ...] = ()
    decor: tuple[Decor, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise ConfigError(f"pipe world: unknown profile {self.profile!r}; use {' or '.join(PROFILES)}")
        if self.material not in MATERIALS[self.profile]:
            known = ", ".join(MATERIALS[self.profile])
            raise ConfigError(f"pipe world: profile {self.profile} has no material {self.material!r}: {known}")
        if self.diameter_m <= 0 or self.length_m <= 0 or not 0.0 <= self.water_level < 0.75:
            raise ConfigError(
                f"pipe world: diameter_m {self.diameter_m} and length_m {self.length_m} must be above 0, "
                f"water_level {self.water_level} in 0..0.75"
            )

    @property
    def radius_m(self) -> float:
        """Half the diameter."""
        return self.diameter_m / 2.0

    @property
    def joints_m(self) -> tuple[float, ...]:
        """Distances of all joints along the run."""
        if self.joint_spacing_m <= 0:
            return ()
        count = int((self.length_m - self.joint_phase_m) / self.joint_spacing_m) + 1
        return tuple(self.joint_phase_m + i * self.joint_spacing_m for i in range(max(count, 0)))

    @property
    def places(self) -> tuple[tuple[Defect, ...], ...]:
        """The defects by place, in order along the pipe."""
        count = max((d.place for d in self.defects), default=-1) + 1
        return tuple(tuple(d for d in self.defects if d.place == i) for i in range(count))


def draw_world(
    seed: int,
    *,
    profile: Profile = "standard",
    length_m: float | None = None,
    codes: Sequence[Sequence[str]] | None = None,
    material: str | None = None,
    severity: float | None = None,
) -> PipeWorld:
    """Draws a pipe run: the same arguments give the same world.

    codes: one set of class codes per place along the pipe, in order; None or empty for a clean pipe.
    length_m: drawn (and long enough for the places) when None. material, severity: forced instead of drawn.
    Raises ConfigError where the places do not fit the length or a code is unknown.
    """
    if profile not in PROFILES:
        raise ConfigError(f"pipe world: unknown profile {profile!r}; use {' or '.join(PROFILES)}")
    places = tuple(tuple(place) for place in (codes or ()))
    look = np.random.default_rng([seed, 0])
    drawn_length = float(look.uniform(12.0, 45.0))
    needed = 3.0 + 2.0 * PLACE_GAP_M * len(places)
    length = max(drawn_length, needed) if length_m is None else float(length_m)
    world = _draw_look(seed, look, profile=profile, length_m=length, material=material)
    defects = _draw_defects(world, places, np.random.default_rng([seed, 1]), severity)
    return replace(world, defects=defects, decor=_draw_decor(world, np.random.default_rng([seed, 2])))


def _draw_look(
    seed: int, rng: np.random.Generator, *, profile: Profile, length_m: float, material: str | None
) -> PipeWorld:
    shares = MATERIALS[profile]
    drawn = str(rng.choice(list(shares), p=list(shares.values())))
    chosen = material or drawn
    if chosen not in shares:
        raise ConfigError(f"pipe world: profile {profile} has no material {chosen!r}: {', '.join(shares)}")
    diameter = float(rng.choice(_DIAMETERS, p=_DIAMETER_SHARES))
    if chosen == "brick":
        diameter = max(diameter, 0.4)
    spacing = _SPACINGS[chosen][int(rng.integers(0, 1000)) % len(_SPACINGS[chosen])]
    # A third of the pipes is dry or holds a film; the rest tails off to half full.
    level = 0.0 if rng.random() < 0.22 else float(np.clip(rng.gamma(1.6, 0.085), 0.01, 0.55))
    return PipeWorld(
        seed=seed,
        profile=profile,
        material=chosen,
        diameter_m=diameter,
        length_m=length_m,
        water_level=level,
        joint_spacing_m=spacing,
        joint_phase_m=float(rng.uniform(0.1, 1.0)) * (spacing or 1.0),
        stain=float(rng.beta(1.6, 1.8)),
        wetness=float(rng.beta(1.4, 1.6)),
        biofilm=float(rng.beta(1.2, 2.2)),
        water_murk=float(rng.beta(2.2, 1.2)),
        joint_wear=float(rng.beta(1.3, 2.0)),
    )


def _draw_defects(
    world: PipeWorld, places: tuple[tuple[str, ...], ...], rng: np.random.Generator, severity: float | None
) -> tuple[Defect, ...]:
    if not places:
        return ()
    slot = (world.length_m - 2.0) / len(places)
    if slot < PLACE_GAP_M:
        raise ConfigError(
            f"pipe world: {len(places)} places do not fit {world.length_m:.1f} m; "
            f"ask for a length of {2.0 + PLACE_GAP_M * len(places):.1f} m or fewer places"
        )
    defects: list[Defect] = []
    for index, place in enumerate(places):
        middle = 1.5 + slot * (index + float(rng.uniform(0.25, 0.75)))
        base_clock = float(rng.uniform(-4.4, 4.4)) % 12.0  # the invert is under water, or hidden by what lies on it
        for code in place:
            defects.append(_draw_defect(world, code, index, middle, base_clock, rng, severity))
    return tuple(defects)


def _draw_defect(
    world: PipeWorld,
    code: str,
    place: int,
    middle: float,
    base_clock: float,
    rng: np.random.Generator,
    severity: float | None,
) -> Defect:
    if code not in CLASS_CODES:
        raise ConfigError(f"pipe world: unknown class {code!r}; the classes are {', '.join(CLASS_CODES)}")
    # Mostly plain to see; about one in eight is close to the limit of what an inspector would note.
    drawn = float(0.06 + 0.94 * rng.beta(1.8, 1.5))
    at_joint = code in JOINT_CODES or rng.random() < OFTEN_AT_JOINT.get(code, 0.0)
    position = middle + float(rng.uniform(-0.12, 0.12))
    seed = int(rng.integers(0, 2**31))
    clock = _clock(code, base_clock, rng)
    if at_joint and world.joints_m:
        position = min(world.joints_m, key=lambda joint: abs(joint - middle))
    final = drawn if severity is None else severity
    length = _length(code, world.diameter_m, final, float(rng.uniform(0.0, 1.0)))
    return Defect(
        code=code,
        distance_m=position,
        length_m=length,
        clock=clock % 12.0,
        severity=final,
        seed=seed,
        place=place,
    )


def _clock(code: str, base: float, rng: np.random.Generator) -> float:
    """Where round the clock each class sits: laterals at 2 and 10, deposits and obstacles at the invert."""
    jitter = float(rng.normal(0.0, 1.0))
    side = 1.0 if rng.random() < 0.5 else -1.0
    if code in ("AF", "FO"):
        return (6.0 + 0.25 * jitter) % 12.0
    if code in _CONNECTIONS:
        return (side * (2.1 + 0.5 * jitter)) % 12.0
    if code in ("RO", "IS", "IN"):
        return (side * 2.2 + 1.2 * jitter) % 12.0
    return base


def _length(code: str, diameter_m: float, severity: float, u: float) -> float:
    """Extent along the pipe in metres; it grows with severity where the class has an extent at all."""
    long = {"RB": (0.25, 1.0), "OB": (0.3, 1.0), "PF": (0.3, 0.9), "DE": (0.6, 1.3), "BE": (0.2, 0.9)}
    if code in long:
        low, high = long[code]
        return low + (high - low) * (0.35 * u + 0.65 * severity)
    if code == "AF":
        return 0.4 + 0.7 * u + 0.4 * severity
    if code in _CONNECTIONS or code == "OK":
        return max(0.12, min(0.45, diameter_m * (0.45 + 0.3 * u)))
    return max(0.08, 0.3 * math.sqrt(diameter_m))


def _draw_decor(world: PipeWorld, rng: np.random.Generator) -> tuple[Decor, ...]:
    """Harmless features about every 0.9 m, whatever the defects."""
    count = int(rng.poisson(world.length_m / 0.9))
    decor: list[Decor] = []
    for _ in range(count):
        kind = DECOR_KINDS[int(rng.integers(0, len(DECOR_KINDS)))]
        decor.append(
            Decor(
                kind=kind,
                distance_m=float(rng.uniform(0.5, world.length_m)),
                length_m=float(rng.uniform(0.12, 0.7)),
                clock=float(rng.uniform(0.0, 12.0)),
                strength=float(rng.beta(1.6, 1.6)),
                seed=int(rng.integers(0, 2**31)),
            )
        )
    return tuple(decor)
