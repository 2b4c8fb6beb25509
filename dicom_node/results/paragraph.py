"""The paragraph for the radiologist's report: the numbers in sentences, and what changed since the last examination.

Its words stand in a template, a YAML file with :class:`string.Template` texts; those that come with this package are
``paragraphs/english.yaml`` and ``paragraphs/german.yaml``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from dicom_node.config import ParagraphSettings
from dicom_node.results.identity import ascii_text
from dicom_node.results.numbers import ReportedNumber
from dicom_node.text_templates import read_texts, text_with

__all__ = ["EarlierExamination", "ParagraphTemplate", "Wording", "compared", "paragraph", "read_template"]

_FOLDER = Path(__file__).with_name("paragraphs")
_UNITS = {"ml/m2": "ml/m²", "g/m2": "g/m²", "l/min/m2": "l/min/m²", "m2": "m²", "deg": "°", "1": ""}
"""UCUM as people write it."""
_GERMAN = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue"})


_Plain = Annotated[str, text_with()]
_Number = Annotated[str, text_with("value", "unit")]
_Bounds = Annotated[str, text_with("lower", "upper")]
_Named = Annotated[str, text_with("number")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Language(_Part):
    code: str = Field(pattern=r"[A-Za-z]{2,3}(-[A-Za-z0-9]+)*")
    name: str = Field(min_length=1, max_length=64)


class _Normal(_Part):
    below: _Bounds
    within: _Bounds
    above: _Bounds


class _Sentence(_Part):
    lead: _Plain
    numbers: dict[str, _Named]


class _Comparison(_Part):
    lead: Annotated[str, text_with("date")]
    date: Annotated[str, text_with("year", "month", "day")] = "$year-$month-$day"
    text: Annotated[str, text_with("name", "before", "now", "unit", "judgement", "limit")]
    beyond: _Plain
    within: _Plain
    other_method: _Plain
    names: dict[str, str]


class ParagraphTemplate(_Part):
    """The words of a paragraph."""

    language: _Language
    decimal_mark: str = Field(min_length=1, max_length=1)
    opening: _Plain
    number: _Number
    interval: _Bounds
    normal: _Normal
    sentences: tuple[_Sentence, ...]
    comparison: _Comparison
    sources: Annotated[str, text_with("sources")]
    words_in_sources: dict[str, str] = {}
    """What to put in place of words of the table of normal ranges, which has one language."""


@dataclass(frozen=True, slots=True)
class EarlierExamination:
    """What this node measured of the same patient before."""

    study_instance_uid: str
    date: str
    """``YYYYMMDD``."""
    numbers: tuple[ReportedNumber, ...]


@dataclass(frozen=True, slots=True)
class Wording:
    """A paragraph and its language."""

    text: str
    language_code: str
    """RFC 5646."""
    language_name: str

    @property
    def plain(self) -> str:
        """The text in ASCII, as people write it who lack the letters."""
        return ascii_text(self.text.translate(_GERMAN) if self.language_code.startswith("de") else self.text)


@dataclass(frozen=True, slots=True)
class Change:
    """A number now and before, judged against how well it repeats."""

    before: ReportedNumber
    now: ReportedNumber
    limit: float
    """95 % of two measurements of an unchanged heart differ by less: √(a² + b²) of both half widths."""

    @property
    def beyond_repeatability(self) -> bool:
        """Whether the heart, or how it was imaged, has changed."""
        return abs(self.now.value - self.before.value) > self.limit

    @property
    def same_method(self) -> bool:
        """Whether both were measured by the same version of the same package."""
        return self.now.version == self.before.version


def read_template(settings: ParagraphSettings) -> ParagraphTemplate:
    """The template that a configuration names.

    Raises
    ------
    ConfigurationError
        It cannot be read, or is not laid out as ``english.yaml``.
    """
    path = settings.template or _FOLDER / f"{settings.language}.yaml"
    example = "dicom_node/results/paragraphs/english.yaml"
    return read_texts(path, ParagraphTemplate, key="results.paragraph.template", example=example)


def compared(numbers: Sequence[ReportedNumber], earlier: EarlierExamination) -> tuple[Change, ...]:
    """The numbers that were measured both times, and of which both have an interval."""
    before = {one.name: one for one in earlier.numbers}
    return tuple(
        Change(before[now.name], now, math.hypot(before[now.name].half_width or 0.0, now.half_width))
        for now in numbers
        if now.half_width is not None and now.name in before and before[now.name].half_width is not None
    )


def paragraph(
    numbers: Sequence[ReportedNumber], template: ParagraphTemplate, earlier: EarlierExamination | None = None
) -> Wording | None:
    """Put numbers into sentences; ``None`` when the template has a place for none of them.

    Parameters
    ----------
    numbers
        Of all packages of a route.
    earlier
        The patient's last examination before this one, where the node holds it.
    """
    found = {one.name: one for one in numbers}
    sentences, named = [], []
    for sentence in template.sentences:
        said = [
            Template(text).substitute(number=_number(found[name], template))
            for name, text in sentence.numbers.items()
            if name in found
        ]
        named += [found[name] for name in sentence.numbers if name in found]
        if said:
            sentences.append(f"{sentence.lead} {', '.join(said)}.")
    if not sentences:
        return None
    if earlier is not None:
        sentences += _comparison(numbers, earlier, template)
    sources = dict.fromkeys(one.normal_source for one in named if one.normal_source)
    if sources:
        named_sources = "; ".join(sources)
        for theirs, ours in template.words_in_sources.items():
            named_sources = named_sources.replace(theirs, ours)
        sentences.append(Template(template.sources).substitute(sources=named_sources))
    language = template.language
    return Wording(" ".join((Template(template.opening).substitute(), *sentences)), language.code, language.name)


def _comparison(
    numbers: Sequence[ReportedNumber], earlier: EarlierExamination, template: ParagraphTemplate
) -> list[str]:
    words = template.comparison
    said = []
    for change in compared(numbers, earlier):
        name = words.names.get(change.now.name)
        if name is None:
            continue
        judgement = words.beyond if change.beyond_repeatability else words.within
        said.append(
            Template(words.text).substitute(
                name=name,
                before=_figure(change.before.value, change.before.unit, template),
                now=_figure(change.now.value, change.now.unit, template),
                unit=_UNITS.get(change.now.unit, change.now.unit),
                judgement=judgement if change.same_method else f"{judgement}, {words.other_method}",
                limit=_figure(change.limit, change.now.unit, template),
            )
        )
    if not said:
        return []
    return [f"{Template(words.lead).substitute(date=_date(earlier.date, words.date))} {'; '.join(said)}."]


def _number(number: ReportedNumber, template: ParagraphTemplate) -> str:
    value = _figure(number.value, number.unit, template)
    text = Template(template.number).substitute(value=value, unit=_UNITS.get(number.unit, number.unit)).strip()
    brackets = []
    if number.lower is not None and number.upper is not None:
        brackets.append(_bounds(template.interval, number.lower, number.upper, number, template))
    if number.normal_lower is not None and number.normal_upper is not None:
        words = template.normal.within
        if number.value < number.normal_lower:
            words = template.normal.below
        elif number.value > number.normal_upper:
            words = template.normal.above
        brackets.append(_bounds(words, number.normal_lower, number.normal_upper, number, template))
    return f"{text} ({'; '.join(brackets)})" if brackets else text


def _bounds(text: str, lower: float, upper: float, number: ReportedNumber, template: ParagraphTemplate) -> str:
    texts: Mapping[str, str] = {
        "lower": _figure(lower, number.unit, template),
        "upper": _figure(upper, number.unit, template),
    }
    return Template(text).substitute(texts)


def _figure(value: float, unit: str, template: ParagraphTemplate) -> str:
    decimals = 1 if unit.startswith(("l/min", "m2", "mm", "deg", "/s", "1")) else 0
    text = f"{value:.{decimals}f}"
    # A zero has no sign, and a minus is one.
    text = text.lstrip("-") if float(text) == 0 else text.replace("-", "−")
    return text.replace(".", template.decimal_mark)


def _date(date: str, text: str) -> str:
    if len(date) != 8 or not date.isdigit():
        return date
    return Template(text).substitute(year=date[:4], month=date[4:6], day=date[6:])
