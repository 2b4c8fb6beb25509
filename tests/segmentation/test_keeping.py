"""A kept segmentation comes back whole, and what is damaged is found out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipelines.models.identity import ModelIdentity
from pipelines.models.precision import Precision
from pipelines.segmentation.keeping import UnreadableSegmentation, decode_segmentation, encode_segmentation
from pipelines.segmentation.labels import CineSegmentation

texts = st.text(max_size=12)


@st.composite
def segmentations(draw: st.DrawFn) -> CineSegmentation:
    shape = draw(st.tuples(*[st.integers(1, 4)] * 4))
    labels = draw(arrays.arrays(np.uint8, shape, elements=st.integers(0, 3)))
    agreement = draw(arrays.arrays(np.float32, shape[:2], elements=st.floats(0, 1, width=32)))
    models = draw(st.lists(st.builds(ModelIdentity, *[texts] * 6, st.sampled_from(Precision)), max_size=3))
    return CineSegmentation(labels, agreement, draw(st.tuples(*[st.integers(0, 500)] * 4)), tuple(models))


@given(segmentations())
def test_it_comes_back_with_every_field(segmentation: CineSegmentation) -> None:
    again = decode_segmentation(encode_segmentation(segmentation))
    for field in dataclasses.fields(CineSegmentation):
        before, after = getattr(segmentation, field.name), getattr(again, field.name)
        if isinstance(before, np.ndarray):
            assert (before.dtype, before.shape) == (after.dtype, after.shape)
            assert np.array_equal(before, after)
        else:
            assert before == after


@given(segmentations(), st.data())
def test_damage_is_found_out(segmentation: CineSegmentation, data: st.DataObject) -> None:
    content = encode_segmentation(segmentation)
    cut = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(UnreadableSegmentation):
        decode_segmentation(content[:cut])


def test_pickles_are_not_opened() -> None:
    import pickle

    with pytest.raises(UnreadableSegmentation):
        decode_segmentation(pickle.dumps(("labels", "agreement", "rest")))
