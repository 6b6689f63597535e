"""Draws a curve as an SVG: how a cost grows with a size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import log10
from typing import Final

_WIDTH: Final = 640
_HEIGHT: Final = 300
_LEFT: Final = 56
_RIGHT: Final = 120
_TOP: Final = 36
_BOTTOM: Final = 44
_COLORS: Final = ("#0b6e99", "#c2410c", "#4d7c0f", "#7e22ce")
_LINES: Final = 4
"""Horizontal lines."""

Points = Sequence[tuple[float, float]]
"""Sizes and costs, by size."""


def curve(title: str, size: str, unit: str, lines: Mapping[str, Points]) -> str:
    """Returns the picture of some lines over a logarithmic axis of sizes, with costs from 0.

    Args:
        title: The picture's title.
        size: What the sizes count.
        unit: The unit of the costs.
        lines: The points of each line, by its name. All have the same sizes, which are above 0.
    """
    sizes = [x for x, _ in next(iter(lines.values()))]
    highest = max(y for points in lines.values() for _, y in points) * 1.15
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}">',
        '<g font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        _text(_LEFT, 20, title, weight="bold"),
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, size, anchor="middle"),
    ]
    for number in range(_LINES + 1):
        cost = highest * number / _LINES
        y = _y(cost, highest)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
            'stroke="#dddddd"/>'
        )
        parts.append(_text(_LEFT - 6, y + 4, f"{cost:.0f}", anchor="end"))
    parts.append(_text(_LEFT - 6, _TOP - 6, unit, anchor="end"))
    parts += [
        _text(_x(x, sizes), _HEIGHT - _BOTTOM + 18, f"{x:,.0f}", anchor="middle") for x in sizes
    ]
    for (name, points), color in zip(lines.items(), _COLORS, strict=False):
        at = [(_x(x, sizes), _y(y, highest)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in at]
        parts.append(_text(at[-1][0] + 8, at[-1][1] + 4, name, color=color))
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _x(size: float, sizes: Sequence[float]) -> float:
    span = log10(sizes[-1] / sizes[0])
    return _LEFT + 12 + log10(size / sizes[0]) / span * (_WIDTH - _LEFT - _RIGHT - 24)


def _y(cost: float, highest: float) -> float:
    return _HEIGHT - _BOTTOM - cost / highest * (_HEIGHT - _TOP - _BOTTOM)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    weight: str = "normal",
    color: str = "#222222",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="{color}">{escape(text)}</text>'
    )
