"""What the benchmark reports: sections of measured values, and ratios with their goals."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

Values = dict[str, float]  # The name of each value ends with its unit, where it has one.


@dataclass(frozen=True)
class Figure:
    """One number to quote, and the bounds that it should be within."""

    text: str
    value: float
    at_most: float | None = None
    at_least: float | None = None
    aim: float | None = None

    def is_missed(self) -> bool:
        if self.at_most is not None and self.value > self.at_most:
            return True
        return self.at_least is not None and self.value < self.at_least

    def __str__(self) -> str:
        notes = []
        if self.at_most is not None:
            notes.append(f"goal: at most {self.at_most:g}")
        if self.at_least is not None:
            notes.append(f"goal: at least {self.at_least:g}")
        if self.aim is not None:
            notes.append(f"aim: {self.aim:g}")
        if self.is_missed():
            notes.append("MISSED")
        remark = f" ({', '.join(notes)})" if notes else ""
        return f"{format_number(self.value)}  {self.text}{remark}"


@dataclass(frozen=True)
class Section:
    """A comparison: what was measured of each variant, and the figures that follow from it."""

    explanation: str
    variants: dict[str, Values]
    figures: list[Figure]

    def lines(self) -> Iterator[str]:
        yield from textwrap.wrap(self.explanation, 96, initial_indent="  ", subsequent_indent="  ")
        width = max(len(name) for name in self.variants)
        for name, values in self.variants.items():
            columns = [f"{key} {format_number(value)}" for key, value in values.items()]
            yield f"    {name:{width}}  {'  '.join(columns)}"
        for figure in self.figures:
            yield f"  {figure}"


def format_number(number: float) -> str:
    return f"{number:,.2f}".removesuffix(".00")
