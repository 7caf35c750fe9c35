"""Training scenes, composed on the device that trains: aligned portraits set into backgrounds, large and small, turned, cut,
hidden, dark, blurred and grey, beside things that are no faces though they are set in the same way.

A portrait is a (3, 128, 128) crop aligned to TEMPLATE, so its box and landmarks in a scene are known exactly.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional as F

PORTRAIT = 128  # px, side of a portrait
TEMPLATE = (
    (45.88, 62.65),
    (82.08, 62.72),
    (64.18, 83.94),
    (48.26, 100.44),
    (80.41, 100.37),
)  # (x, y) px of the landmarks
OTHER_SIDE = (1, 0, 2, 4, 3)
MIDDLE = (63.5, 72.5)  # of the box
BOX = (78.0, 101.0)  # px, width and height of an upright face
INNER = ((63.5, 80.0), (26.0, 34.0))  # centre and half axes, px, of the ellipse about the landmarks
FOREHEAD = 43  # rows of a portrait that show no eyes
SLOTS = "LssssLssssL"  # things set into a scene, one after another: large and small
SMALL, LARGE = (12.0, 46.0), (44.0, 190.0)  # px of box height
SMALL_WINDOW = 96  # px; holds a small thing whatever its turn
SMALL_PORTRAIT = 64  # px; a small thing is drawn from a portrait of this side
HIDERS = 2  # things that may hide parts of them
MASKED, SHADED = 0.08, 0.07  # shares of faces that wear a mask over the mouth, or dark glasses
REUSED = 3  # times that a composition is photographed, mirrored about another axis each time
COUNTED = 13.0  # px; smaller faces are neither faces nor background
SEEN = 0.3  # share of the inner face in sight from which it is a face
KINDS = (0.2, 0.56, 0.24)  # shares of nothing, faces and other things
DARKER_SKIN = (0.72, 0.6, 0.52)  # factors on red, green and blue
LEAST_LIGHT = 0.05  # share of a portrait's light below which its face is not asked for
HARDLY_SEEN = 0.08  # from which it is not background either

LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
"""Quantisation of luma at quality 50 (ITU-T T.81, table K.1)."""


@dataclass
class Bank:
    """portraits: (n, 3, 128, 128) uint8; grey: (n,) bool; tiles: (m, 3, T, T) uint8, backgrounds without faces."""

    portraits: torch.Tensor
    grey: torch.Tensor
    tiles: torch.Tensor


@dataclass
class Scenes:
    """pixels: (B, 3, S, S) float32 of whole numbers in [0, 255]. For each of the n SLOTS: face, whether it is a face to be found;
    vague, whether it is neither that nor background, (B, n) bool; centre (B, n, 2), box (B, n, 2) and landmarks
    (B, n, 5, 2) in px, pixel centres at whole numbers.
    """

    pixels: torch.Tensor
    face: torch.Tensor
    vague: torch.Tensor
    centre: torch.Tensor
    box: torch.Tensor
    landmarks: torch.Tensor


@dataclass
class Things:
    """One thing for each scene. kind: 0 nothing, 1 a face, 2 something else; light: share of its light that is left; size: px of
    height; angle: radians; flip: whether mirrored; stretch: of its width; all (B,). centre: (B, 2) px. content: (B, 3, s, s).
    """

    kind: torch.Tensor
    light: torch.Tensor
    size: torch.Tensor
    angle: torch.Tensor
    flip: torch.Tensor
    stretch: torch.Tensor
    centre: torch.Tensor
    content: torch.Tensor


class Composer:
    """Makes scenes of (side, side) px; the generator is the device's own."""

    def __init__(self, bank: Bank, side: int, seed: int) -> None:
        self.bank, self.side, self.device = bank, side, bank.portraits.device
        self.rng = torch.Generator(self.device).manual_seed(seed)
        axis = torch.arange(side, device=self.device, dtype=torch.float32)
        self.places = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)  # (S, S, 2) of (x, y)
        self.atlas, self.across = _atlas(bank.tiles)

    def uniform(self, low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(*shape, generator=self.rng, device=self.device)

    def chance(self, share: float, *shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=self.rng, device=self.device) < share

    def index(self, count: int, *shape: int) -> torch.Tensor:
        return torch.randint(count, shape, generator=self.rng, device=self.device)

    def __call__(self, batch: int) -> Iterator[Scenes]:
        """One composition of so many scenes, photographed REUSED times."""
        canvas = self._tiles(batch, self.side)
        canvas = self._background(canvas)
        ids = torch.zeros(batch, self.side, self.side, dtype=torch.int16, device=self.device)
        things: list[Things] = []
        for slot, large in enumerate(letter == "L" for letter in SLOTS):
            beside = things[-1] if things and large == (SLOTS[slot - 1] == "L") else None
            thing = self._thing(batch, large, beside)
            canvas, ids = self._paste(canvas, ids, slot, thing, large)
            things.append(thing)
        for number in range(HIDERS):
            canvas, ids = self._hide(canvas, ids, plain=number % 2 == 0)
        kind, light, size, angle, flip, stretch = (
            torch.stack([getattr(thing, name) for thing in things], 1)
            for name in ("kind", "light", "size", "angle", "flip", "stretch")
        )
        centre = torch.stack([thing.centre for thing in things], 1)
        scale = size / BOX[1]
        seen = torch.stack([(ids == slot + 1).sum((1, 2)) for slot in range(len(SLOTS))], 1)
        share = seen / (math.pi * INNER[1][0] * INNER[1][1] * scale.square() * stretch)
        landmarks = self._landmarks(centre, scale, angle, flip, stretch)
        wide, high = BOX[0] * scale * stretch / 2, BOX[1] * scale / 2
        cosine, sine = angle.cos(), angle.sin()
        box = 2 * torch.stack(
            [((wide * cosine) ** 2 + (high * sine) ** 2).sqrt(), ((wide * sine) ** 2 + (high * cosine) ** 2).sqrt()], -1
        )
        for use in range(REUSED):
            pixels, exposure = self._photographed(canvas)
            lit = light * exposure[:, None] >= LEAST_LIGHT
            face = (kind == 1) & (share >= SEEN) & (size >= COUNTED) & lit
            vague = (kind == 1) & ~face & ((share >= HARDLY_SEEN) | (size < COUNTED))
            yield Scenes(pixels, face, vague, centre, box, landmarks)
            # about the diagonal, or about the middle: both exchange the sides of a face
            landmarks = landmarks[..., list(OTHER_SIDE), :]
            if use % 2 == 0:
                canvas, centre, box, landmarks = (
                    canvas.mT.contiguous(),
                    centre.flip(-1),
                    box.flip(-1),
                    landmarks.flip(-1),
                )
            else:
                canvas = canvas.flip(-1)
                mirror = torch.tensor([-1.0, 1.0], device=self.device)
                shift = torch.tensor([self.side - 1.0, 0.0], device=self.device)
                centre, landmarks = centre * mirror + shift, landmarks * mirror + shift

    def _thing(self, batch: int, large: bool, beside: "Things | None") -> "Things":
        """Something to be set into each scene; in a third of them next to, or half behind, the thing before."""
        low, high = LARGE if large else SMALL
        size = self.uniform(math.log(low), math.log(high), batch).exp()
        centre = self.uniform(-0.04, 1.04, batch, 2) * self.side
        if beside is not None:
            crowd, direction = self.chance(0.35, batch), self.uniform(0, 2 * math.pi, batch)
            size = torch.where(crowd, (beside.size * self.uniform(0.7, 1.4, batch)).clamp(low, high), size)
            reach = self.uniform(0.45, 1.2, batch) * (size + beside.size) / 2
            place = beside.centre + reach[:, None] * torch.stack([direction.cos(), direction.sin()], -1)
            centre = torch.where(crowd[:, None], place, centre)
        turned = self.chance(0.45, batch)
        angle = torch.where(turned, self.uniform(-math.pi, math.pi, batch), self.uniform(-0.3, 0.3, batch))
        kind = torch.multinomial(torch.tensor(KINDS, device=self.device), batch, True, generator=self.rng)
        content, light = self._content(kind, size, PORTRAIT if large else SMALL_PORTRAIT)
        return Things(
            kind, light, size, angle, self.chance(0.5, batch), self.uniform(-0.13, 0.13, batch).exp(), centre, content
        )

    def _paste(
        self, canvas: torch.Tensor, ids: torch.Tensor, slot: int, thing: "Things", large: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw a thing into each scene, large ones over all of it and small ones in a window."""
        batch, side = len(canvas), self.side if large else SMALL_WINDOW
        corner = (thing.centre - side / 2).round().clamp(0, self.side - side)
        places = self.places[:side, :side] + corner[:, None, None]
        source = self._source(places, thing)
        grid = (source + 0.5) * (2 / PORTRAIT) - 1
        drawn = F.grid_sample(thing.content, grid, padding_mode="border", align_corners=False)
        alpha = self._outline(source, thing.size) * (thing.kind > 0)[:, None, None]
        inner = (source - torch.tensor(INNER[0], device=self.device)) / torch.tensor(INNER[1], device=self.device)
        named = (inner.square().sum(-1) < 1) & (thing.kind == 1)[:, None, None]
        name = torch.where(named, slot + 1, 0).to(torch.int16)
        if large:
            return canvas + (drawn - canvas) * alpha[:, None], torch.where(alpha > 0.5, name, ids)
        index = (places[..., 1] * self.side + places[..., 0]).long().reshape(batch, side * side)
        flat, names = canvas.reshape(batch, 3, -1), ids.reshape(batch, -1)
        three = index[:, None].expand(-1, 3, -1)
        under = flat.gather(2, three).reshape(drawn.shape)
        flat.scatter_(2, three, (under + (drawn - under) * alpha[:, None]).reshape(batch, 3, -1))
        before = names.gather(1, index)
        names.scatter_(1, index, torch.where(alpha.reshape(batch, -1) > 0.5, name.reshape(batch, -1), before))
        return flat.reshape(canvas.shape), names.reshape(ids.shape)

    def _source(self, places: torch.Tensor, thing: "Things") -> torch.Tensor:
        """(B, s, s, 2): the place in a portrait, px of PORTRAIT, that each of the places (B, s, s, 2) shows."""
        offset = (places - thing.centre[:, None, None]) / (thing.size / BOX[1])[:, None, None, None]
        cosine, sine = thing.angle.cos()[:, None, None], thing.angle.sin()[:, None, None]
        x = (offset[..., 0] * cosine + offset[..., 1] * sine) / thing.stretch[:, None, None]
        y = offset[..., 1] * cosine - offset[..., 0] * sine
        x = torch.where(thing.flip[:, None, None], -x, x)
        return torch.stack([x + MIDDLE[0], y + MIDDLE[1]], -1)

    def _landmarks(
        self, centre: torch.Tensor, scale: torch.Tensor, angle: torch.Tensor, flip: torch.Tensor, stretch: torch.Tensor
    ) -> torch.Tensor:
        points = torch.tensor(TEMPLATE, device=self.device) - torch.tensor(MIDDLE, device=self.device)
        other = points[list(OTHER_SIDE)] * torch.tensor([-1.0, 1.0], device=self.device)
        points = (
            torch.where(flip[..., None, None], other, points)
            * torch.stack([stretch, torch.ones_like(stretch)], -1)[..., None, :]
        )
        cosine, sine = angle.cos()[..., None], angle.sin()[..., None]
        turned = torch.stack(
            [points[..., 0] * cosine - points[..., 1] * sine, points[..., 0] * sine + points[..., 1] * cosine], -1
        )
        return centre[..., None, :] + turned * scale[..., None, None]

    def _content(self, kind: torch.Tensor, size: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 3, side, side) in [0, 1]: portraits, or what is none, lit, coloured and blurred for the size they are shown at;
        and how much of their light is left, (B,).
        """
        batch = len(kind)
        chosen = self.index(len(self.bank.portraits), batch)
        faces = self.bank.portraits[chosen].float() / 255
        if side < PORTRAIT:
            faces = F.avg_pool2d(faces, PORTRAIT // side)
        faces = self._dressed(faces)
        other = self.index(4, batch)
        other = torch.where((other == 3) & self.chance(0.5, batch), 0, other)
        pick = other[:, None, None, None]
        top = faces[:, :, : FOREHEAD * side // PORTRAIT]
        hair = torch.cat([top, top.flip(2), top, top.flip(2)], 2)[:, :, :side]
        nothing = torch.where(pick == 1, self._scrambled(faces), torch.where(pick == 2, hair, faces))
        nothing = torch.where(pick == 0, self._tiles(batch, side), nothing)
        is_face = kind == 1
        content = torch.where(is_face[:, None, None, None], faces, nothing)
        tinted = self.bank.grey[chosen] & self.chance(0.65, batch)
        skin = torch.stack(
            [torch.ones(batch, device=self.device), self.uniform(0.6, 0.97, batch), self.uniform(0.4, 0.95, batch)], 1
        )
        cast = torch.where(tinted[:, None], skin, 1.0) * self.uniform(-0.18, 0.18, batch, 3).exp()
        depth = self.uniform(0, 1.2, batch) * self.chance(0.35, batch)
        cast = cast * torch.tensor(DARKER_SKIN, device=self.device) ** depth[:, None]
        gain = self.uniform(-0.6, 0.3, batch).exp()
        dark = torch.where(self.chance(0.16, batch), self.uniform(0.07, 0.35, batch), 1.0)
        mean = content.mean((1, 2, 3), keepdim=True)
        content = mean + (content - mean) * self.uniform(0.45, 1.3, batch)[:, None, None, None]
        content = content.clamp(1e-3, 1) ** self.uniform(-0.5, 0.6, batch).exp()[:, None, None, None]
        content = content * (cast * (gain * dark)[:, None])[..., None, None]
        axis = torch.linspace(-1, 1, side, device=self.device)
        light = self.uniform(-0.45, 0.45, batch, 2) * self.chance(0.5, batch)[:, None]
        content = (
            content
            * (1 + light[:, 0, None, None] * axis[None, None, :] + light[:, 1, None, None] * axis[None, :, None])[
                :, None
            ]
        )
        grey = content.mean(1, keepdim=True).expand_as(content)
        content = torch.where(self.chance(0.15, batch)[:, None, None, None], grey, content)
        unit = side / PORTRAIT * BOX[1]  # px of the content that a face is high
        shrunk = (unit / size).clamp(min=1.0)  # px of the content that one px of the scene shows
        blur = torch.where(self.chance(0.4, batch), self.uniform(0.0, 0.105, batch) * unit, 0.0)
        blur = torch.where((other == 3) & ~is_face, self.uniform(0.22, 0.4, batch) * unit, blur)
        smooth = ((0.45 * shrunk * (shrunk > 1)).square() + blur.square()).sqrt()
        along = torch.where(self.chance(0.12, batch), self.uniform(0.02, 0.1, batch) * unit, 0.0)
        return _blurred(content.clamp(0, 1), smooth, along, self.uniform(0, math.pi, batch)), gain * dark

    def _dressed(self, faces: torch.Tensor) -> torch.Tensor:
        """Portraits some of which wear a mask over nose and mouth, or dark glasses."""
        batch, side = len(faces), faces.shape[-1]
        axis = (torch.arange(side, device=self.device) + 0.5) * (PORTRAIT / side) - 0.5
        x, y = axis[None, None, :], axis[None, :, None]
        across, down = (x - MIDDLE[0]).abs(), self.uniform(74, 90, batch)[:, None, None]
        mask = (
            (y > down + 0.004 * across.square()) & (across < 46) & (y < 126) & self.chance(MASKED, batch)[:, None, None]
        )
        wide, high = self.uniform(13, 19, batch)[:, None, None], self.uniform(8, 14, batch)[:, None, None]
        lenses = [
            ((x - TEMPLATE[eye][0]) / wide).square() + ((y - TEMPLATE[eye][1] - 2) / high).square() < 1
            for eye in (0, 1)
        ]
        glasses = (lenses[0] | lenses[1]) & self.chance(SHADED, batch)[:, None, None]
        cloth = torch.rand(batch, 3, 1, 1, generator=self.rng, device=self.device)
        dark = 0.25 * torch.rand(batch, 3, 1, 1, generator=self.rng, device=self.device)
        faces = torch.where(mask[:, None], 0.15 * faces + 0.85 * cloth, faces)
        return torch.where(glasses[:, None], 0.12 * faces + dark, faces)

    def _scrambled(self, faces: torch.Tensor) -> torch.Tensor:
        """Portraits whose parts have changed places."""
        n = 4
        side = faces.shape[-1] // n
        parts = (
            faces.reshape(len(faces), 3, n, side, n, side)
            .permute(0, 2, 4, 1, 3, 5)
            .reshape(len(faces), n * n, 3, side, side)
        )
        order = torch.rand(len(faces), n * n, generator=self.rng, device=self.device).argsort(1)
        parts = parts.gather(1, order[:, :, None, None, None].expand_as(parts))
        return parts.reshape(len(faces), n, n, 3, side, side).permute(0, 3, 1, 4, 2, 5).reshape(faces.shape)

    def _outline(self, source: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        """(B, s, s) in [0, 1]: how much of each pixel a thing covers: an ellipse, a head with shoulders, or the whole crop."""
        batch = len(size)
        shape = self.index(10, batch)[:, None, None]
        x, y = source[..., 0], source[..., 1]
        wide = (self.uniform(0.54, 0.82, batch) * BOX[0])[:, None, None]
        high = (self.uniform(0.54, 0.74, batch) * BOX[1])[:, None, None]
        across, down = (x - MIDDLE[0]) / wide, (y - MIDDLE[1] + 4) / high
        below = torch.where(
            (shape >= 5) & (shape < 8), down.clamp(max=0), down
        )  # 5 to 7: straight down from the middle
        radius = (across.square() + below.square()).sqrt()
        edge = (1 - radius) * wide
        border = torch.minimum(torch.minimum(x, PORTRAIT - 1 - x), torch.minimum(y, PORTRAIT - 1 - y)) + 0.5
        edge = torch.where(shape >= 8, border, torch.minimum(edge, border))
        soft = self.uniform(0.3, 6.0, batch)[:, None, None].clamp(min=0.3) + 0.3 * (BOX[1] / size)[:, None, None]
        return (edge / soft + 0.5).clamp(0, 1)

    def _tiles(self, batch: int, side: int) -> torch.Tensor:
        """(B, 3, side, side) in [0, 1]: parts of backgrounds at 0.4 to 2.5 times their size, turned and mirrored."""
        extent = self.bank.tiles.shape[-1]
        step = self.uniform(math.log(0.4), math.log(2.5), batch).exp().clamp(max=(extent - 2) / side)
        half = step * side / 2 + 1
        centre = (
            half[:, None] + torch.rand(batch, 2, generator=self.rng, device=self.device) * (extent - 2 * half)[:, None]
        )
        tile = self.index(len(self.bank.tiles), batch)
        centre = centre + extent * torch.stack([tile % self.across, tile // self.across], -1)
        quarter = self.index(4, batch) * (math.pi / 2)
        mirror = torch.where(self.chance(0.5, batch), -1.0, 1.0)
        cosine, sine = (quarter.cos() * step)[:, None, None], (quarter.sin() * step)[:, None, None]
        offset = self.places[:side, :side] - (side - 1) / 2
        x = (offset[..., 0] * cosine - offset[..., 1] * sine) * mirror[:, None, None]
        y = offset[..., 0] * sine + offset[..., 1] * cosine
        places = torch.stack([x, y], -1) + centre[:, None, None]
        rows, columns = self.atlas.shape[-2:]
        grid = places * torch.tensor([2 / columns, 2 / rows], device=self.device) - 1
        drawn = F.grid_sample(self.atlas, grid.reshape(1, batch * side, side, 2), align_corners=False)
        drawn = drawn.reshape(3, batch, side, side).transpose(0, 1)
        colours = torch.rand(batch, 3, generator=self.rng, device=self.device).argsort(1)
        changed = drawn.gather(1, colours[:, :, None, None].expand_as(drawn))
        return torch.where(self.chance(0.25, batch)[:, None, None, None], changed, drawn).contiguous()

    def _background(self, canvas: torch.Tensor) -> torch.Tensor:
        batch = len(canvas)
        second = self._tiles(batch, self.side)
        across = self.uniform(-math.pi, math.pi, batch)[:, None, None]
        split = (self.places[..., 0] - self.side / 2) * across.cos() + (
            self.places[..., 1] - self.side / 2
        ) * across.sin()
        mixed = (split > self.uniform(-0.5, 0.5, batch)[:, None, None] * self.side) & self.chance(0.3, batch)[
            :, None, None
        ]
        canvas = torch.where(mixed[:, None], second, canvas)
        plain = torch.rand(batch, 3, 1, 1, generator=self.rng, device=self.device)
        ramp = plain + (torch.rand(batch, 3, 1, 1, generator=self.rng, device=self.device) - plain) * (
            self.places[..., 1] / self.side
        )
        noise = torch.rand(batch, 3, self.side, self.side, generator=self.rng, device=self.device)
        kind = self.uniform(0, 1, batch)[:, None, None, None]
        canvas = torch.where(
            kind < 0.04, noise, torch.where(kind < 0.09, ramp, torch.where(kind < 0.13, plain, canvas))
        )
        return (canvas * self.uniform(0.45, 1.2, batch)[:, None, None, None]).clamp(0, 1)

    def _hide(self, canvas: torch.Tensor, ids: torch.Tensor, *, plain: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Lay a bar, a box or an ellipse over a part of each scene."""
        batch = len(canvas)
        offset = self.places - self.uniform(0, 1, batch, 2)[:, None, None] * self.side
        angle = self.uniform(0, math.pi, batch)[:, None, None]
        x = offset[..., 0] * angle.cos() + offset[..., 1] * angle.sin()
        y = offset[..., 1] * angle.cos() - offset[..., 0] * angle.sin()
        half = self.uniform(math.log(2.0), math.log(40.0), batch, 2).exp()[:, None, None]
        x, y = x / half[..., 0], y / half[..., 1]
        round_ = self.chance(0.5, batch)[:, None, None]
        inside = torch.where(round_, x.square() + y.square() < 1, torch.maximum(x.abs(), y.abs()) < 1)
        inside = inside & self.chance(0.4, batch)[:, None, None]
        colour = torch.rand(batch, 3, 1, 1, generator=self.rng, device=self.device)
        content = colour if plain else self._tiles(batch, self.side)
        return torch.where(inside[:, None], content, canvas), torch.where(inside, 0, ids)

    def _photographed(self, canvas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What a camera and a file make of scenes: exposure, (B,) and returned too, colour, blur, noise, JPEG's quantisation,
        whole numbers.
        """
        batch = len(canvas)
        each = (slice(None), None, None, None)
        none = torch.zeros(batch, device=self.device)
        canvas = torch.where(self.chance(0.12, batch)[each], canvas.mean(1, keepdim=True), canvas)
        exposure = self.uniform(-0.5, 0.3, batch).exp() * torch.where(
            self.chance(0.05, batch), self.uniform(0.12, 0.5, batch), 1.0
        )
        canvas = canvas.clamp(1e-3, 1) ** self.uniform(-0.3, 0.3, batch).exp()[each]
        canvas = canvas * (exposure[:, None] * self.uniform(-0.1, 0.1, batch, 3).exp())[..., None, None]
        sigma = torch.where(self.chance(0.3, batch), self.uniform(0, 1.3, batch), none)
        canvas = _blurred(canvas, sigma, none, none)
        strength = torch.where(self.chance(0.4, batch), self.uniform(0, 0.07, batch), none)
        canvas = canvas + strength[each] * torch.randn(canvas.shape, generator=self.rng, device=self.device)
        compressed = self._compressed(canvas.clamp(0, 1) * 255)
        canvas = torch.where(self.chance(0.4, batch)[each], compressed, canvas * 255)
        return canvas.clamp(0, 255).round(), exposure

    def _compressed(self, pixels: torch.Tensor) -> torch.Tensor:
        """Quantised in the cosine domain at qualities 25 to 95, chroma at half the resolution and as coarse as luma."""
        batch, side = len(pixels), self.side
        red, green, blue = pixels.unbind(1)
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        chroma = torch.stack([(blue - luma) / 1.772, (red - luma) / 1.402], 1)
        quality = self.uniform(25, 95, batch)
        factor = torch.where(quality < 50, 50 / quality, 2 - quality / 50).clamp(min=0.02)
        luma = _quantised(luma[:, None] - 128, factor) + 128
        chroma = F.interpolate(_quantised(F.avg_pool2d(chroma, 2), factor * 1.3), size=(side, side), mode="bilinear")
        blue, red = luma[:, 0] + 1.772 * chroma[:, 0], luma[:, 0] + 1.402 * chroma[:, 1]
        return torch.stack([red, (luma[:, 0] - 0.299 * red - 0.114 * blue) / 0.587, blue], 1)


def _atlas(tiles: torch.Tensor) -> tuple[torch.Tensor, int]:
    """All tiles in one picture (1, 3, H, W) float32 in [0, 1], and how many stand side by side."""
    across = math.ceil(math.sqrt(len(tiles)))
    extent, missing = tiles.shape[-1], -len(tiles) % across
    grid = torch.cat([tiles, tiles[:missing]]).reshape(-1, across, 3, extent, extent)
    return grid.permute(2, 0, 3, 1, 4).reshape(1, 3, -1, across * extent).float() / 255, across


def _quantised(planes: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) through 8 x 8 cosine transforms whose coefficients are rounded to LUMA times factor (B,)."""
    batch, channels, height, width = planes.shape
    n = torch.arange(8, device=planes.device, dtype=torch.float32)
    basis = 0.5 * torch.cos((2 * n[None] + 1) * n[:, None] * math.pi / 16)
    basis[0] /= math.sqrt(2)
    blocks = planes.reshape(batch, channels, height // 8, 8, width // 8, 8).permute(0, 1, 2, 4, 3, 5)
    step = torch.tensor(LUMA, device=planes.device, dtype=torch.float32) * factor[:, None, None, None, None, None]
    step = step.clamp(min=1)
    rounded = ((basis @ blocks @ basis.T) / step).round() * step
    return (basis.T @ rounded @ basis).permute(0, 1, 2, 4, 3, 5).reshape(planes.shape)


def _blurred(pixels: torch.Tensor, sigma: torch.Tensor, along: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """(B, C, S, S) under a Gaussian of `sigma` px in all directions and `along` px more in one, each (B,), by Fourier."""
    side, pad = pixels.shape[-1], 16
    padded = F.pad(pixels, (pad, pad, pad, pad), mode="replicate")
    extent = side + 2 * pad
    v, u = (
        torch.fft.fftfreq(extent, device=pixels.device)[:, None],
        torch.fft.rfftfreq(extent, device=pixels.device)[None],
    )
    plain = sigma.square()[:, None, None] * (u.square() + v.square())
    motion = along.square()[:, None, None] * (u * angle.cos()[:, None, None] + v * angle.sin()[:, None, None]).square()
    response = torch.exp(-2 * math.pi**2 * (plain + motion))[:, None]
    smooth = torch.fft.irfft2(torch.fft.rfft2(padded) * response, s=(extent, extent))
    return smooth[..., pad : pad + side, pad : pad + side]
