"""The one loop of all trainings: stopping changes nothing, and what cannot be gone on with is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pipelines.training.steps import Progress, TrainedWeights, train_steps, usable_device


def network() -> torch.nn.Sequential:
    torch.manual_seed(7)
    return torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.3), torch.nn.Linear(4, 1)
    )


def loss_of(module: torch.nn.Module) -> Callable[[int], torch.Tensor]:
    def loss(step: int) -> torch.Tensor:
        batch = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        return (module(batch)[:, 0] - batch.sum(1)).square().mean()

    return loss


def run(output: Path, *, steps: int = 12, **options: object) -> TrainedWeights:
    module = network()
    defaults: dict[str, object] = {"clip": 1.0, "peak_rate": 1e-2, "settings": {"seed": 7}}
    return train_steps(module, loss_of(module), output=output, steps=steps, **defaults | options)  # type: ignore[arg-type]


@settings(max_examples=15, deadline=None)
@given(stops=st.lists(st.integers(1, 11), max_size=3))
def test_the_weights_are_the_same_wherever_a_run_stopped(
    stops: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = run(tmp_path_factory.mktemp("whole"))
    folder = tmp_path_factory.mktemp("parts")
    for stop in stops:
        run(folder, stop_after=stop)
        torch.rand(5)  # another process has another state of the global generator
    assert run(folder).sha256 == whole.sha256


def test_other_steps_give_other_weights(tmp_path: Path) -> None:
    assert run(tmp_path / "a").sha256 != run(tmp_path / "b", steps=13).sha256


def test_the_loss_falls_and_reports_count_the_steps_made(tmp_path: Path) -> None:
    reports: list[Progress] = []
    run(tmp_path, steps=300, stop_after=30)
    run(tmp_path, steps=300, report=reports.append)
    assert [report.step for report in reports] == [50, 100, 150, 200, 250, 300]
    assert reports[-1].loss < 0.8 * reports[0].loss


def test_a_finished_run_gives_its_weights_again_when_they_were_lost(tmp_path: Path) -> None:
    kept: list[tuple[int, str]] = []
    first = run(tmp_path)
    first.path.unlink()
    again = run(tmp_path, kept=lambda done, sha256: kept.append((done, sha256)))
    assert again.sha256 == first.sha256
    assert kept == [(12, first.sha256)]


def test_without_resuming_a_run_begins_again(tmp_path: Path) -> None:
    first = run(tmp_path)
    assert run(tmp_path, settings={"seed": 8}, resume=False).sha256 == first.sha256


def test_a_checkpoint_of_more_steps_is_refused(tmp_path: Path) -> None:
    run(tmp_path, steps=12)
    with pytest.raises(ValueError, match="has made 12 steps, more than 6: ask for more"):
        run(tmp_path, steps=6)


def test_a_checkpoint_of_another_run_says_what_differs(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(ValueError, match="another seed; start without resuming"):
        run(tmp_path, settings={"seed": 8})


def test_settings_compare_as_json_holds_them(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", settings={"features": (1, 2)})
    run(tmp_path / "parts", settings={"features": (1, 2)}, stop_after=4)
    assert run(tmp_path / "parts", settings={"features": (1, 2)}).sha256 == whole.sha256
    with pytest.raises(ValueError, match="another seed;"):
        run(tmp_path / "parts", settings={"features": (1, 2), "seed": 1})


def rewrite(
    path: Path, tensors: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], metadata: dict[str, str] | None
) -> None:
    with safetensors.safe_open(path, framework="pt") as handle:
        known = dict(handle.metadata())
    save_file(tensors(load_file(path)), path, known if metadata is None else metadata)


@pytest.mark.parametrize(
    ("change", "metadata", "message"),
    [
        (lambda tensors: tensors, {"settings": json.dumps({"seed": 7})}, "no checkpoint that this version writes"),
        (lambda tensors: tensors, {"step": "12"}, "no checkpoint that this version writes"),
        (
            lambda tensors: {name: tensor for name, tensor in tensors.items() if not name.startswith("average.")},
            None,
            "of a network of other layers",
        ),
        (
            lambda tensors: tensors | {"network.0.weight": torch.zeros(9, 3), "average.0.weight": torch.zeros(9, 3)},
            None,
            "of a network of other layers",
        ),
    ],
)
def test_a_checkpoint_of_another_format_is_refused(
    tmp_path: Path,
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    metadata: dict[str, str] | None,
    message: str,
) -> None:
    run(tmp_path)
    rewrite(tmp_path / "checkpoint.safetensors", change, metadata)
    with pytest.raises(ValueError, match=f"{message}; start without resuming"):
        run(tmp_path, steps=13)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cannot be read.*start without resuming"):
        run(tmp_path, steps=13)


def test_a_parameter_that_no_loss_reaches_stays_and_does_not_hinder_resuming(tmp_path: Path) -> None:
    def part(**options: object) -> TrainedWeights:
        module = torch.nn.ModuleDict({"unused": torch.nn.Linear(2, 2), "used": network()})
        return train_steps(
            module,
            loss_of(module["used"]),
            clip=1.0,
            peak_rate=1e-2,
            steps=8,
            settings={},
            output=tmp_path,
            **options,  # type: ignore[arg-type]
        )

    part(stop_after=3)
    assert part().path.is_file()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_finite_weights(tmp_path: Path, value: float) -> None:
    module = network()
    sound = loss_of(module)
    with pytest.raises(ValueError, match=r"the loss of step 5 is .* lower the learning rate"):
        train_steps(
            module,
            lambda step: sound(step) * (value if step == 5 else 1),
            clip=1.0,
            peak_rate=1e-2,
            steps=8,
            settings={},
            output=tmp_path,
        )
    assert all(tensor.isfinite().all() for tensor in module.state_dict().values())


def test_a_gradient_that_is_not_finite_ends_the_run_too(tmp_path: Path) -> None:
    module = network()
    weight = module[0].weight
    # The root has a finite value at zero, and an infinite slope.
    with pytest.raises(ValueError, match=r"of step 0 is 0\.0, its gradient"):
        train_steps(
            module,
            lambda _: (weight - weight).sum().sqrt(),
            clip=1.0,
            peak_rate=1e-2,
            steps=1,
            settings={},
            output=tmp_path,
        )
    assert not (tmp_path / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("name", ["nowhere", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"device '{name}' cannot be used"):
        usable_device(name)
    with pytest.raises(ValueError, match="cannot be used"):
        run(tmp_path, device=name)
