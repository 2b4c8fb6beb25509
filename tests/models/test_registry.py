from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipelines.disease_pattern.architecture import LogisticArchitecture
from pipelines.models.architecture import Architecture, UNetArchitecture, architectures
from pipelines.models.card import (
    InputSpecification,
    ModelCard,
    TrainingData,
    read_card,
    write_card,
)
from pipelines.models.folding import fold_normalisations
from pipelines.models.precision import Precision, labelling_precision
from pipelines.models.registry import ModelUnavailable, is_installed, list_models, load_model
from pipelines.obstruction.architecture import ClipArchitecture, WallArchitecture
from pipelines.obstruction.network import FRAMES
from pipelines.remodelling.architecture import FusionArchitecture
from pipelines.remodelling.features import FEATURES
from pipelines.remodelling.volume import DEPTH
from pipelines.synthetic_enhancement.architecture import DiffusionArchitecture, SequenceArchitecture

ARCHITECTURE = UNetArchitecture(in_channels=3, out_channels=4, features=(4, 4, 8, 8, 8, 4))


def write_model(root: Path, name: str = "small") -> ModelCard:
    """A tiny model with random weights."""
    folder = root / name
    folder.mkdir()
    torch.manual_seed(0)
    network = ARCHITECTURE.build()
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, folder / "weights.safetensors")
    card = ModelCard(
        name=name,
        version="1.2.3",
        task="test",
        licence="CC-BY-NC-SA-4.0",
        weights_sha256=hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest(),
        summary="A model of the tests.",
        input=InputSpecification(size=32, field="heart crop", channels=("a", "b", "c"), normalisation="none"),
        output=("BACKGROUND", "LV", "MYO", "RV"),
        label_weights=(1.0, 1.0, 1.0, 1.0),
        architecture=ARCHITECTURE,
        training=TrainingData(
            name="nothing", licence="none", source="none", cases=("p1", "p2"), split="none", steps=1, command="none"
        ),
        limits=("Everything.",),
        not_for=("Anything.",),
    )
    write_card(card, folder / "card.yaml")
    return card


def test_a_card_reads_back_as_it_was_written(tmp_path: Path) -> None:
    card = write_model(tmp_path)
    assert read_card(tmp_path / "small" / "card.yaml") == card
    assert list_models(tmp_path) == (card,)
    assert is_installed("small", tmp_path)
    assert not is_installed("large", tmp_path)


def test_a_model_is_loaded_for_evaluation_with_its_identity(tmp_path: Path) -> None:
    card = write_model(tmp_path)
    model = load_model("small", root=tmp_path)
    assert not model.network.training
    assert model.identity.weights_sha256 == card.weights_sha256
    assert model.identity.training_data == "nothing, 2 hearts (none)"
    assert model.network(torch.zeros(2, 3, 32, 32)).shape == (2, 4, 32, 32)


def test_labels_in_half_precision_are_nearly_those_in_full_and_the_identity_says_which(tmp_path: Path) -> None:
    write_model(tmp_path)
    full, half = (load_model("small", root=tmp_path, precision=precision) for precision in Precision)
    assert [model.identity.precision for model in (full, half)] == list(Precision)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        exact, near = full.probabilities(images), half.probabilities(images)
    assert near.dtype == torch.float32
    assert not torch.equal(exact, near)
    assert (exact - near).abs().max() < 0.05


def test_normalisations_are_folded_into_convolutions_as_they_were_learnt() -> None:
    torch.manual_seed(0)
    network = ARCHITECTURE.build()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            for values, low, high in (
                (layer.running_mean, -1.0, 1.0),
                (layer.running_var, 0.2, 5.0),
                (layer.weight.data, 0.5, 2.0),
                (layer.bias.data, -1.0, 1.0),
            ):
                values.uniform_(low, high)
    network.eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        exact = network(images)
        fold_normalisations(network)
        same = network(images)
        near = network.to(torch.bfloat16)(images.to(torch.bfloat16)).float()
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in network.modules())
    assert (exact - same).abs().max() < 1e-5 * exact.std()
    assert (exact - near).abs().max() < 0.03 * exact.std()


@pytest.mark.parametrize("has", ["avx512_bf16", "amx_bf16", None])
def test_half_precision_is_for_processors_that_have_it(has: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"avx2": True, "avx512_bf16": False} | ({has: True} if has else {})
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert labelling_precision("cpu") is (Precision.BFLOAT16 if has else Precision.FLOAT32)
    assert labelling_precision("cuda:0") is Precision.FLOAT32


def test_an_unknown_model_names_those_installed(tmp_path: Path) -> None:
    write_model(tmp_path)
    with pytest.raises(ModelUnavailable, match=r"'large'.*installed: small"):
        load_model("large", root=tmp_path)


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "small" / "weights.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match="cannot be read"):
        load_model("small", root=tmp_path)


def test_one_changed_bit_of_the_weights_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    path = tmp_path / "small" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelUnavailable, match="its card says"):
        load_model("small", root=tmp_path)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    card = write_model(tmp_path)
    other = card.model_copy(update={"architecture": ARCHITECTURE.model_copy(update={"features": (8, 8, 8, 8, 8, 8)})})
    write_card(other, tmp_path / "small" / "card.yaml")
    with pytest.raises(ModelUnavailable, match="architecture"):
        load_model("small", root=tmp_path)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"weights_sha256": "short"}, "weights_sha256"),
        ({"version": "one"}, "version"),
        ({"unheard": 1}, "unheard"),
        ({"limits": None}, "limits"),
        ({"architecture": {"kind": "os.system"}}, "architecture.*'os.system'; there are .*monai.BasicUNet"),
        ({"architecture": "monai.BasicUNet"}, "architecture"),
        ({"architecture": {"kind": "monai.BasicUNet", "in_channels": 0}}, "architecture.*in_channels"),
    ],
)
def test_a_card_that_breaks_the_schema_names_the_key(tmp_path: Path, change: dict[str, object], key: str) -> None:
    import yaml

    write_model(tmp_path)
    path = tmp_path / "small" / "card.yaml"
    content = yaml.safe_load(path.read_text()) | change
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=key):
        read_card(path)


def test_architectures_are_declared_beside_their_analyses() -> None:
    shared = {kind for kind, one in architectures().items() if one.__module__ == Architecture.__module__}
    assert shared == {"monai.BasicUNet"}
    assert all(one.__module__.endswith(".architecture") for one in architectures().values())


def test_a_card_that_is_not_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "card.yaml"
    path.write_text("name: [")
    with pytest.raises(ValueError, match="cannot be read"):
        read_card(path)


def _answer(card: ModelCard, network: torch.nn.Module, size: int) -> tuple[int, ...]:
    """Shape of what a network gives for one case of zeros, without the case."""
    kind = card.architecture
    if isinstance(kind, ClipArchitecture):
        answer = network(torch.zeros(1, 1, FRAMES, size, size))
    elif isinstance(kind, WallArchitecture):
        answer = network(torch.zeros(1, len(kind.features)))
    elif isinstance(kind, FusionArchitecture):
        volume = torch.zeros(1, len(card.input.channels), DEPTH, size, size)
        answer = network(volume, torch.zeros(1, len(FEATURES))).fused
    elif isinstance(kind, SequenceArchitecture):
        answer = network(torch.zeros(1, 8, kind.inputs))
    elif isinstance(kind, LogisticArchitecture):
        answer = network(torch.zeros(1, size))
    else:
        times = [torch.zeros(1)] if isinstance(kind, DiffusionArchitecture) else []
        answer = network(torch.zeros(1, kind.in_channels, size, size), *times)
    assert len(answer) == 1
    return tuple(answer.shape[1:])


@pytest.mark.parametrize("card", list_models(), ids=lambda card: card.name)
def test_every_model_of_the_package_loads_and_says_what_it_is_not_for(card: ModelCard) -> None:
    model = load_model(card.name)
    size = card.input.size
    with torch.inference_mode():
        outputs = _answer(card, model.network, size)
    whole_case = isinstance(
        card.architecture, ClipArchitecture | FusionArchitecture | WallArchitecture | SequenceArchitecture
    )
    of_numbers = isinstance(card.architecture, LogisticArchitecture)
    expected = (len(card.output),) if of_numbers else (len(card.output), size, size)
    assert outputs == (() if whole_case else expected)
    # What the images of ACDC and EMIDEC made inherits their licence.
    patients = any(name in card.training.name for name in ("ACDC", "EMIDEC"))
    assert card.licence == ("CC-BY-NC-SA-4.0" if patients else "Apache-2.0")
    assert any("research" in sentence.lower() for sentence in card.not_for)
