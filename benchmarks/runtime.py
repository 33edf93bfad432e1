"""Which runtime scores a request's rows fastest: the booster's own library, or a compiled form.

    uv pip install onnxruntime onnxmltools treelite tl2cgen lleaves   # none is a dependency
    python -m benchmarks.runtime [--small]

Boosters of both families at the size of a served one: 500 trees of depth 6, 40 features, 50 rows.
Every runtime has one thread, as a request has, and must give the native probabilities to 1e-5. A
runtime that is not installed, or does not load the model, is left out and named.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report

FEATURES, DEPTH, ROWS = 40, 6, 50
Score = Callable[[np.ndarray], np.ndarray]


def fitted(family: str, trees: int) -> Any:
    random = np.random.default_rng(0)
    matrix = random.normal(size=(20_000, FEATURES)).astype(np.float32)
    matrix[random.random(matrix.shape) < 0.1] = np.nan
    intent = np.nan_to_num(matrix[:, :8]).sum(axis=1) + np.nan_to_num(matrix[:, 8] * matrix[:, 9])
    label = (intent + random.normal(0, 2, len(matrix)) > 3).astype(int)
    if family == "xgboost":
        import xgboost

        parameters = {"objective": "binary:logistic", "max_depth": DEPTH, "eta": 0.05, "nthread": 2}
        return xgboost.train(parameters, xgboost.DMatrix(matrix, label), trees)
    import lightgbm

    parameters = {"objective": "binary", "max_depth": DEPTH, "num_leaves": 2**DEPTH,
                  "learning_rate": 0.05, "verbosity": -1, "num_threads": 2}  # fmt: skip
    return lightgbm.train(parameters, lightgbm.Dataset(matrix, label), trees)


def native(booster: Any, family: str, folder: Path) -> Score:
    if family == "xgboost":
        booster.set_param({"nthread": 1})
        return booster.inplace_predict
    return lambda matrix: booster.predict(matrix, num_threads=1)


def onnx(booster: Any, family: str, folder: Path) -> Score:
    import onnxmltools
    import onnxruntime
    from onnxmltools.convert.common.data_types import FloatTensorType

    shape = [("x", FloatTensorType([None, FEATURES]))]
    convert = getattr(onnxmltools, f"convert_{family}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = convert(
        booster, initial_types=shape, **({"zipmap": False} if family == "lightgbm" else {})
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    output = session.get_outputs()[1].name
    return lambda matrix: session.run([output], {"x": matrix})[0][:, 1]


def treelite_model(booster: Any, family: str) -> Any:
    import treelite

    return getattr(treelite.frontend, f"from_{family}")(booster)


def gtil(booster: Any, family: str, folder: Path) -> Score:
    import treelite

    model = treelite_model(booster, family)
    return lambda matrix: treelite.gtil.predict(model, matrix, nthread=1).ravel()


def tl2cgen(booster: Any, family: str, folder: Path) -> Score:
    import tl2cgen

    library = folder / f"{family}.so"
    tl2cgen.export_lib(treelite_model(booster, family), toolchain="gcc", libpath=library,
                       params={"parallel_comp": 8})  # fmt: skip
    predictor = tl2cgen.Predictor(library, nthread=1)
    return lambda matrix: predictor.predict(tl2cgen.DMatrix(matrix)).ravel()


def lleaves(booster: Any, family: str, folder: Path) -> Score:
    import lleaves as library

    if family != "lightgbm":
        raise ImportError("LightGBM alone")
    booster.save_model(folder / "lightgbm.txt")
    model = library.Model(model_file=str(folder / "lightgbm.txt"))
    model.compile()
    return lambda matrix: model.predict(matrix, n_jobs=1)


RUNTIMES = {"native": native, "ONNX Runtime": onnx, "Treelite GTIL": gtil, "TL2cgen": tl2cgen,
            "LLeaves": lleaves}  # fmt: skip


def main(small: bool) -> None:
    trees, repeats = (50, 100) if small else (500, 2_000)
    blocks = np.random.default_rng(1).normal(size=(repeats, ROWS, FEATURES)).astype(np.float32)
    for family in ("xgboost", "lightgbm"):
        booster = fitted(family, trees)
        expected = native(booster, family, Path())(blocks[0])
        medians: dict[str, float] = {}
        for name, make in RUNTIMES.items():
            with tempfile.TemporaryDirectory() as folder:
                try:
                    score = make(booster, family, Path(folder))
                    difference = float(np.abs(np.ravel(score(blocks[0])) - expected).max())
                except Exception as error:
                    print(f"  {family}, {name}: left out ({type(error).__name__}: {error})"[:160])
                    continue
                if difference > 1e-5:
                    print(f"  {family}, {name}: left out, differs by {difference:.1e}")
                    continue
                milliseconds = []
                for block in blocks:
                    started = time.perf_counter()
                    score(block)
                    milliseconds.append((time.perf_counter() - started) * 1000)
                medians[name] = float(np.median(milliseconds))
                print(f"  {family}, {name}: {medians[name]:.3f} ms, differs by {difference:.1e}")
        mine = medians.pop("native")
        report.write(
            f"runtime_{family}",
            work=f"{ROWS} rows, {trees} trees of depth {DEPTH}, {FEATURES} features, one thread",
            unit="ms",
            better="lower",
            ours=mine,
            peers=medians,
            floor=min([mine, *medians.values()]),
            peak_memory_gb={"all": report.peak_memory_gb()},
            small=small,
        )


if __name__ == "__main__":
    main(report.arguments().small)
