"""Programs of one or a few operators: built and saved by coremltools, read back and executed by facex."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from facex.exporters._mil import executor, program, registry
from facex.exporters._quiet import quiet

FAST = frozenset({"test_executor.py", "test_halves.py", "test_placement.py", "test_ranges.py", "test_residency.py"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All are slow but those that concern no single operator: thousands of cases, of operators that seldom change."""
    for item in items:
        saves = {"saved_model", "written", "execute"} & set(getattr(item, "fixturenames", ()))
        if item.path.parent == Path(__file__).parent and (saves or item.path.name not in FAST):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], tuple[Any, Path]]:
    """`saved_model(model)` saves a coremltools model, and gives what the file holds: its spec and weights folder."""
    with quiet():
        import coremltools as ct

    def save(model: Any) -> tuple[Any, Path]:
        path = tmp_path_factory.mktemp("program") / "model.mlpackage"
        with quiet():
            model.save(str(path))
            read = ct.models.MLModel(str(path), skip_model_load=True)
            return read.get_spec(), Path(read.weights_dir)

    return save


@pytest.fixture(scope="session")
def written(saved_model: Callable[[Any], tuple[Any, Path]]) -> Callable[..., tuple[Any, Path]]:
    """`written(body, x=array, y=array)` saves a program, and gives what the file holds: its spec and weights folder.

    `body(mb, x, y)` gives one result or a tuple. The inputs have the arrays' types: float32, float16 or int32;
    anything else is made inside by `mb.cast`. `target` is the name of a deployment target. No pass of the converter
    touches the program.
    """
    with quiet():
        import coremltools as ct
        from coremltools.converters.mil import Builder
        from coremltools.converters.mil.mil import types

    kinds = {"float32": types.fp32, "float16": types.fp16, "int32": types.int32}

    def write(body: Callable[..., Any], *, target: str = "iOS17", **inputs: NDArray[Any]) -> tuple[Any, Path]:
        system = getattr(ct.target, target)

        def function(*given: Any) -> Any:
            return body(Builder, *given)

        specs = [Builder.TensorSpec(shape=v.shape, dtype=kinds[str(v.dtype)]) for v in inputs.values()]
        with quiet():
            built = Builder.program(input_specs=specs, opset_version=system)(_named(function, list(inputs)))
            model = ct.convert(
                built, convert_to="mlprogram", minimum_deployment_target=system, skip_model_load=True,
                compute_precision=ct.precision.FLOAT32, pass_pipeline=ct.PassPipeline.EMPTY,
            )  # fmt: skip
        return saved_model(model)

    return write


@pytest.fixture(scope="session")
def execute(written: Callable[..., tuple[Any, Path]]) -> Callable[..., list[NDArray[Any]]]:
    """`execute(body, x=array, y=array)` runs a program through the saved file (see `written`): its outputs in order."""

    def run(body: Callable[..., Any], *, target: str = "iOS17", **inputs: NDArray[Any]) -> list[NDArray[Any]]:
        parsed = program.parse(*written(body, target=target, **inputs))
        found = executor.Executor(parsed)({name: executor.held(value) for name, value in inputs.items()})
        return [value.numpy() for value in found.values()]

    return run


def _named(function: Callable[..., Any], names: list[str]) -> Callable[..., Any]:
    """A function with parameters of these names, which is how mb.program names its inputs."""
    space: dict[str, Any] = {"function": function}
    exec(f"def named({', '.join(names)}):\n    return function({', '.join(names)})", space)
    named: Callable[..., Any] = space["named"]
    return named


@pytest.fixture(scope="session")
def compute() -> Callable[..., Any]:
    """`compute("conv", x=array, strides=(2, 2))` calls the function of one operator at full precision, with no file.

    Arrays become tensors as the executor's do; the rest is given as it is. The result is an array, or a tuple of them.
    """
    known = registry.operators()

    def as_tensor(value: Any) -> Any:
        if isinstance(value, np.ndarray | np.generic):
            return executor.held(np.asarray(value))
        if isinstance(value, tuple) and value and isinstance(value[0], np.ndarray):
            return tuple(map(as_tensor, value))
        return value

    def run(name: str, /, **inputs: Any) -> Any:
        with torch.inference_mode():
            result = known[name].compute(**{key: as_tensor(value) for key, value in inputs.items()})
        return tuple(v.numpy() for v in result) if isinstance(result, tuple) else result.numpy()

    return run


@pytest.fixture
def random() -> np.random.Generator:
    """The same numbers for every test."""
    return np.random.default_rng(5)
