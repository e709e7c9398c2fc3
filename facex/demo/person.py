"""Who is in a photograph: everything about a person that is drawn at random, before anything is drawn on paper."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from facex.demo.noise import FloatArray

MONK_SCALE = (
    "f6ede4", "f3e7db", "f7ead0", "eadaba", "d7bd96", "a07e56", "825c43", "604134", "3a312a", "292420",
)  # fmt: skip
"""Ten skin tones from the lightest to the darkest, sRGB: the Monk Skin Tone Scale (Monk 2022, skintone.google)."""

HAIR_COLOURS = ("0e0b0a", "1b1310", "2d1e16", "4a3020", "6b4628", "96703f", "c9a468", "7a3418", "8d8a86", "d9d7d2")
"""Black, browns, blonds, red, grey and white, sRGB."""


def linear(code: str) -> FloatArray:
    """An sRGB colour in hexadecimal as linear RGB, float32 [3] (IEC 61966-2-1)."""
    srgb = np.array([int(code[i : i + 2], 16) for i in (0, 2, 4)], np.float32) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Proportions of a head, in units; the defaults are those of an average adult."""

    width: float = 1.0
    depth: float = 1.0
    jaw: float = 0.92
    chin: float = 1.0
    eye_x: float = 0.33
    eye_y: float = 0.0
    eye_size: float = 0.165
    brow_y: float = 0.21
    brow_thickness: float = 0.045
    brow_arch: float = 0.06
    nose_y: float = -0.43
    nose_length: float = 0.22
    nose_width: float = 0.14
    mouth_y: float = -0.73
    mouth_width: float = 0.26
    lips: float = 1.0
    cheeks: float = 0.05
    hairline: float = 0.66


@dataclass(frozen=True, kw_only=True)
class Expression:
    """What a face does; 0 is at rest, openings are in units or shares of the open eye."""

    smile: float = 0.0
    mouth_open: float = 0.0
    teeth: bool = True
    eyes_open: float = 1.0
    gaze: tuple[float, float] = (0.0, 0.0)
    brows: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Looks:
    """Colours and what is worn. Colours are linear RGB; None is not worn.

    Attributes:
        skin: albedo.
        blush: redness of cheeks, nose and lips, 0-1.
        roughness: strength of spots and uneven tone, 0-1.
        age: depth of wrinkles, 0-1.
        gloss: shine of the skin.
        hair: colour.
        hair_style: `bald`, `short`, `long`, `big`, `tied`.
        beard: `none`, `stubble`, `moustache`, `full`, `goatee`.
        headwear: `none`, `cap`, `beanie`, `scarf`, `hood`, `helmet`, `brim`.
        glasses: `none`, `clear`, `dark`.
        mask: whether mouth and nose are covered.
        mask_low: whether the mask leaves the nose free.
        pattern: kind of pattern on cloth: 0 plain, 1 stripes, 2 checks, 3 spots.
    """

    skin: FloatArray
    iris: FloatArray
    hair: FloatArray
    cloth: FloatArray
    trousers: FloatArray
    headwear_colour: FloatArray
    mask_colour: FloatArray
    blush: float = 0.3
    roughness: float = 0.3
    age: float = 0.2
    gloss: float = 0.1
    makeup: float = 0.0
    hair_style: str = "short"
    beard: str = "none"
    headwear: str = "none"
    glasses: str = "none"
    mask: bool = False
    mask_low: bool = False
    pattern: int = 0
    pattern_colour: FloatArray = field(default_factory=lambda: np.ones(3, np.float32))


@dataclass(frozen=True, kw_only=True)
class Pose:
    """How head and body are turned, radians: yaw to the viewer's right, pitch up, roll clockwise."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    body_yaw: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody. `seed` decides every small irregularity of skin, hair and cloth."""

    shape: Shape
    expression: Expression
    looks: Looks
    pose: Pose
    seed: int


def random_person(rng: np.random.Generator, *, masked: float = 0.2, pose: Pose | None = None) -> Person:
    """Draw a person.

    Args:
        rng: all chance comes from it.
        masked: probability of a face mask.
        pose: instead of a random one.
    """
    child = rng.random() < 0.15
    female = rng.random() < 0.5
    return Person(
        shape=_shape(rng, child=child, female=female),
        expression=_expression(rng),
        looks=_looks(rng, child=child, female=female, masked=masked),
        pose=pose or random_pose(rng),
        seed=int(rng.integers(2**31)),
    )


def _shape(rng: np.random.Generator, *, child: bool, female: bool) -> Shape:
    def around(middle: float, spread: float) -> float:
        return float(middle * (1 + spread * np.clip(rng.standard_normal(), -2.2, 2.2)))

    shift = 0.06 if child else 0.0  # a child's face sits lower on a larger skull
    return Shape(
        width=around(1.04 if child else 1.0, 0.05),
        depth=around(1.0, 0.05),
        jaw=around(0.93 if child else 0.86 if female else 0.92, 0.05),
        chin=around(0.9 if child else 0.97 if female else 1.0, 0.04),
        eye_x=around(0.33, 0.05),
        eye_y=-shift,
        eye_size=around(0.185 if child else 0.165, 0.09),
        brow_y=around(0.215, 0.10) - shift,
        brow_thickness=around(0.03 if child else 0.038 if female else 0.052, 0.25),
        brow_arch=around(0.06, 0.4),
        nose_y=around(-0.36 if child else -0.43, 0.06) - shift * 0.5,
        nose_length=around(0.16 if child else 0.20 if female else 0.23, 0.15),
        nose_width=around(0.14, 0.15),
        mouth_y=around(-0.68 if child else -0.73, 0.04),
        mouth_width=around(0.22 if child else 0.26, 0.09),
        lips=around(1.1 if female else 0.9, 0.25),
        cheeks=around(0.08 if child else 0.05, 0.4),
        hairline=around(0.66, 0.08),
    )


def _expression(rng: np.random.Generator) -> Expression:
    smile = float(rng.choice([0.0, rng.uniform(0.2, 1.0), rng.uniform(-0.5, 0)], p=[0.35, 0.5, 0.15]))
    return Expression(
        smile=smile,
        mouth_open=float(rng.choice([0.0, rng.uniform(0.03, 0.12), rng.uniform(0.12, 0.32)], p=[0.55, 0.3, 0.15])),
        teeth=bool(rng.random() < 0.8),
        eyes_open=float(rng.choice([rng.uniform(0.55, 1.15), rng.uniform(0.2, 0.5), 0.0], p=[0.8, 0.13, 0.07])),
        gaze=(float(rng.normal(0, 0.2)), float(rng.normal(0, 0.1))),
        brows=float(rng.normal(0, 0.5)),
    )


def _looks(rng: np.random.Generator, *, child: bool, female: bool, masked: float) -> Looks:
    tone = float(rng.beta(1.3, 1.7) * (len(MONK_SCALE) - 1))
    low = min(int(tone), len(MONK_SCALE) - 2)
    skin = linear(MONK_SCALE[low]) * (1 - tone + low) + linear(MONK_SCALE[low + 1]) * (tone - low)
    skin = skin * rng.uniform(0.78, 1.0) * np.array([1.0, rng.uniform(0.84, 0.99), rng.uniform(0.74, 0.97)])
    dark = tone > 5
    old = not child and rng.random() < 0.22
    hair_weights = (
        np.array([5, 5, 4, 3, 2, 1.5, 1.5, 1, 0, 0]) if not dark else np.array([8, 5, 2, 0.5, 0.2, 0, 0.1, 0.1, 0, 0])
    )
    if old:
        hair_weights = hair_weights * 0.3 + np.array([0] * 8 + [5, 5])
    hair = linear(HAIR_COLOURS[int(rng.choice(len(HAIR_COLOURS), p=hair_weights / hair_weights.sum()))])
    if rng.random() < 0.04:
        hair = random_colour(rng)
    styles = ["bald", "short", "long", "big", "tied"]
    likely = [0.02, 0.2, 0.48, 0.1, 0.2] if female else [0.16, 0.68, 0.07, 0.07, 0.02]
    beards = ["none", "stubble", "moustache", "full", "goatee"]
    bearded = [1, 0, 0, 0, 0] if female or child else [0.5, 0.18, 0.07, 0.17, 0.08]
    headwears = ["none", "cap", "beanie", "scarf", "hood", "helmet", "brim"]
    covered = [0.72, 0.08, 0.04, 0.07 if female else 0.02, 0.03, 0.02, 0.04 if female else 0.09]
    mask = bool(rng.random() < masked)
    mask_tones = [linear("a9cfe0"), linear("eef1f2"), linear("16171a"), linear("7fb7d4"), random_colour(rng)]
    return Looks(
        skin=skin.astype(np.float32),
        iris=linear(
            str(
                rng.choice(
                    ["2a1a10", "3b2414", "5a3b1e", "6c6a45", "6f8796", "4b6a58"], p=[0.35, 0.3, 0.13, 0.08, 0.08, 0.06]
                )
            )
        ),
        hair=(hair * rng.uniform(0.7, 1.3)).astype(np.float32),
        cloth=random_colour(rng),
        trousers=random_colour(rng) * np.float32(0.5),
        headwear_colour=random_colour(rng),
        mask_colour=mask_tones[int(rng.choice(5, p=[0.35, 0.22, 0.2, 0.08, 0.15]))],
        blush=float(rng.uniform(0.1, 0.8)),
        roughness=float(rng.uniform(0, 0.6)),
        age=float(rng.uniform(0.5, 1.0) if old else rng.uniform(0, 0.1) if child else rng.uniform(0, 0.5)),
        gloss=float(rng.uniform(0.01, 0.18)),
        makeup=float(rng.uniform(0.2, 1.0) if female and not child and rng.random() < 0.5 else 0.0),
        hair_style=str(rng.choice(styles, p=likely)),
        beard=str(rng.choice(beards, p=bearded)),
        headwear=str(rng.choice(headwears, p=np.array(covered) / sum(covered))),
        glasses=str(rng.choice(["none", "clear", "dark"], p=[0.8, 0.14, 0.06])),
        mask=mask,
        mask_low=mask and bool(rng.random() < 0.12),
        pattern=int(rng.choice(4, p=[0.74, 0.12, 0.08, 0.06])),
        pattern_colour=random_colour(rng),
    )


def random_pose(rng: np.random.Generator) -> Pose:
    """Mostly towards the camera, often to the side, seldom in profile or tilted far."""
    spread = float(rng.choice([0.2, 0.5, 0.95], p=[0.55, 0.3, 0.15]))
    yaw = float(np.clip(rng.normal(0, spread), -1.55, 1.55))
    return Pose(
        yaw=yaw,
        pitch=float(np.clip(rng.normal(-0.04, 0.2), -0.75, 0.65)),
        roll=float(np.clip(rng.normal(0, float(rng.choice([0.09, 0.3], p=[0.75, 0.25]))), -1.0, 1.0)),
        body_yaw=float(yaw * rng.uniform(0.1, 0.9) + rng.normal(0, 0.15)),
    )


def random_colour(rng: np.random.Generator) -> FloatArray:
    """A colour of cloth or paint, linear RGB: mostly muted, sometimes strong, sometimes grey."""
    value = rng.uniform(0.01, 0.8) ** 1.3
    saturation = float(rng.choice([0.1, 0.45, 0.9], p=[0.4, 0.4, 0.2])) * rng.uniform(0.5, 1.0)
    hue = rng.uniform(0, 6)
    wheel = np.clip(np.abs((hue + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    result: FloatArray = (value * (1 - saturation * (1 - wheel))).astype(np.float32)
    return result
