"""Texts that a site may put in its own words: YAML files of :class:`string.Template` texts, checked when read."""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ValidationError

from dicom_node.errors import ConfigurationError
from dicom_node.plain_words import dotted, in_plain_words

__all__ = ["read_texts", "text_with"]

Texts = TypeVar("Texts", bound=BaseModel)


def text_with(*known: str) -> AfterValidator:
    """Checks that a text is a template in which nothing but these names stands for something."""

    def checked(text: str) -> str:
        template = Template(text)
        if not template.is_valid():
            raise ValueError("a dollar sign that begins no name is written $$")
        unknown = sorted(set(template.get_identifiers()) - set(known))
        if unknown:
            there_are = ", ".join(sorted(known)) or "none"
            raise ValueError(f"${unknown[0]} stands for nothing here; there are: {there_are}")
        return text

    return AfterValidator(checked)


def read_texts(path: Path, kind: type[Texts], *, key: str, example: str) -> Texts:
    """Read a file of texts.

    Parameters
    ----------
    key
        Of the configuration, that names the file.
    example
        The file to start from.

    Raises
    ------
    ConfigurationError
        It cannot be read, or is not laid out as the example.
    """
    subject, remedy = f"{key} {path}", f"start from {example}"
    try:
        return kind.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"cannot be read: {type(error).__name__}", subject=subject, remedy=remedy) from error
    except ValidationError as error:
        place, sentence = in_plain_words(error.errors()[0])
        what = f"{dotted(place)}: {sentence}" if place else sentence
        raise ConfigurationError(what, subject=subject, remedy=remedy) from error
