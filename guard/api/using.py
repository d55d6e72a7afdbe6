"""`guard.load`, `export`, `verify`, `calibrate` and `evaluate`: what can be done with a guard that was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from .._siblings import needs
from ..detector import Guard
from ..export_requests import BenchRequest, ExportRequest, LoadRequest, VerifyRequest
from ..paths import path_given
from ..requests import CalibrateRequest, EvaluateRequest
from .arguments import mapping_of, path_of

if TYPE_CHECKING:
    from export.parity import ParityReport

    from ..evaluation.result import Evaluation
    from ..latency.result import Latency


def load(
    path: str | Path,
    *,
    device: str = "auto",
    runtime: str = "auto",
    threads: int | None = None,
    tuned_for: Literal["latency", "throughput"] = "latency",
    warm_up: int | Sequence[int] = (),
    cache: str | Path | None = None,
) -> Guard:
    """Load a guard: an ``.onnx`` file (onnxruntime, no torch), an ``.engine`` (TensorRT) or a run folder (torch).

    An engine of another GPU or TensorRT is built again from the ``.onnx`` file beside it, which is logged.

    Args:
        path: the artefact.
        device: "auto", "cpu" or "cuda". Asking for "cuda" where there is none is an error, never a silent fallback;
            "auto" falls back to the CPU and logs it.
        runtime: what runs an ``.onnx`` file: "onnxruntime" (which "auto" is), "onnxruntime-tensorrt" (its TensorRT
            provider), "tensorrt" (an engine, built at the first load and kept) or "openvino".
        threads: of one run in ONNX Runtime or OpenVINO; default what `tuned_for` takes.
        tuned_for: "latency": one run at a time takes all cores, and idle threads spin. "throughput": each run takes one
            thread, and many threads or processes run at once.
        warm_up: batch sizes to run once before this returns, so that no request pays for what a runtime does at the
            first run of a size: on a GPU much.
        cache: folder for what the runtime makes of the file: ONNX Runtime's optimised graph, engines of TensorRT. What
            another version, provider, processor or GPU made is made anew. By default nothing is kept, and engines
            beside the file.

    Raises:
        ArtefactNotFoundError, ArtefactDamagedError, ArtefactVersionError: with a sentence that says which.
        RuntimeUnavailableError: a GPU, provider or engine was asked for and cannot be had.
        ConfigError: an option that is not accepted, or that nothing would read.
    """
    from ..artefact.load import load as load_

    with LoadRequest.checked():
        request = LoadRequest(
            path=path_given(path),
            device=device,
            runtime=runtime,
            threads=threads,
            tuned_for=tuned_for,
            warm_up=cast("Any", warm_up),
            cache=path_of(cache),
        )
    return load_(**dict(request))


def export(
    g: Guard | str | Path,
    path: str | Path,
    *,
    format: Literal["auto", "onnx", "engine", "triton"] = "auto",
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32",
    target: Literal["auto", "cpu", "tensorrt"] = "auto",
    data: Any = None,
    ood: Any = None,
    max_flag_flips: int | None = None,
    max_accuracy_loss: float = 0.005,
    max_auroc_loss: float = 0.005,
    max_batch: int = 256,
    min_batch: int = 1,
    opt_batch: int | None = None,
    exemplars: int = 0,
) -> Path:
    """Write a guard as one graph: ``guard.onnx`` (ONNX) or ``guard.engine`` (TensorRT, dynamic batch).

    Beside an engine lies the ONNX file that it was built of, ``guard.engine.onnx``: `load` builds it again of that.

    The file is run at once on the calibration images and compared with its source: scores, labels and flags. Beyond
    `max_flag_flips` nothing is written.

    Below fp32 the network's body alone (convolutions, matrix products and what is between them, on maps and tokens)
    computes in that precision; features, logits, score and threshold stay in float32. Scores shift, so the file gets
    a threshold and p-values of its own, at the same rate, from held-out images. What it changes is measured on them and
    in the manifest (`guard.exported.PrecisionChange`). fp16 halves the file; int8 quarters it, and is faster on CPUs
    with VNNI. ONNX Runtime computes bf16 on CUDA alone; OpenVINO and TensorRT take it.

    Args:
        g: a guard from `train` or `fit`, or its run folder. Below fp32, and for an engine, an exported .onnx file will
            do, without torch.
        path: ends in ``.onnx`` or ``.engine``; for "triton" the model's folder in a repository, like models/animals.
        format: "onnx", "engine", "triton" (a version of a model for NVIDIA's Triton server: configuration, class names
            and the ONNX file), or "auto": as the path ends.
        precision: "fp32", "fp16", "bf16" or "int8". int8 whose loss is above the budget gets layers back in float32,
            those that disturb most first.
        target: whose int8: "cpu" (u8 activations, s8 weights), "tensorrt" (both s8, symmetric), or "auto": by `path`.
        data: in-distribution images to verify on, and below fp32 to calibrate on (of the guard's own data only what it
            held out); default the calibration images where they are at hand, else, in fp32, random images.
        ood: images whose AUROC is held, too; default the in-distribution images cut into blocks in another order, and
            smooth noise.
        max_flag_flips: how many images may change label or flag before the export fails; default 0 in fp32, and any
            number in a lower precision, where int8 gets layers back for it too.
        max_accuracy_loss, max_auroc_loss: what a precision below fp32 may lose on these images, in [0, 1]; of the
            accuracy one image in any case, unless it is 0.
        max_batch: largest batch of a TensorRT engine, or that Triton makes; ONNX has no limit.
        min_batch, opt_batch: smallest batch of an engine, and the one it is tuned for; default 1, and 8 or `max_batch`
            where that is less. Engines only.
        exemplars: how many of those images per class, 0 to 20, the file holds as small JPEGs, for the service's page
            to show beside a flagged image; whoever has the file can see them. The graph gets the outputs `embedding`
            and, of a combined score, `surprises` (`guard.explanation`); 0 leaves it as it is. ONNX only.

    Returns:
        The path written.

    Raises:
        ParityError: the exported graph does not decide like its source.
        ExportError: the graph cannot be written, or loses more than the budget in this precision.
        ConfigError: a precision below fp32 without in-distribution images.
    """
    with ExportRequest.checked():
        request = ExportRequest(
            g=g,
            path=path_given(path),
            format=format,
            precision=precision,
            target=target,
            data=data,
            ood=ood,
            max_flag_flips=max_flag_flips,
            max_accuracy_loss=max_accuracy_loss,
            max_auroc_loss=max_auroc_loss,
            max_batch=max_batch,
            min_batch=min_batch,
            opt_batch=opt_batch,
            exemplars=exemplars,
        )
    return cast("Path", needs("train", "export.api").export(request))


def verify(
    path: str | Path | Guard,
    *,
    against: Guard | str | Path,
    data: Any,
    batch_size: int = 64,
    max_flag_flips: int | None = None,
    max_accuracy_loss: float = 0.005,
    runtime: str = "auto",
    device: str = "auto",
    against_runtime: str = "auto",
    against_device: str = "auto",
    token: str | None = None,
) -> ParityReport:
    """Run `data` through two runtimes and compare numbers and decisions.

    Args:
        path: the exported guard, or the address of a service, http://127.0.0.1:3000, which decides by itself;
            http://127.0.0.1:3000?model=cars names one of several.
        against: its source: a `Guard` or a path.
        data: images in any form; labels, where there are, give accuracy and false-alarm rate on both sides.
        max_flag_flips: how many images may change label or flag; default by the lower precision of the two: none in
            fp32, 1 % in fp16, 2 % in bf16, 5 % in int8, one image at least.
        max_accuracy_loss: how much accuracy the exported guard may lose, where the data has labels.
        runtime, device: what runs the exported guard and where, as in `load`.
        against_runtime, against_device: the same of its source: one file can be compared with itself.
        token: the service's GUARD_TOKEN, where it has one.

    Returns:
        The report: largest score difference, flag flips, label changes, accuracy and false-alarm rate of both.

    Raises:
        ParityError: more flips than `max_flag_flips`, or a greater loss of accuracy.
    """
    with VerifyRequest.checked():
        request = VerifyRequest(
            path=path,
            against=against,
            data=data,
            batch_size=batch_size,
            max_flag_flips=max_flag_flips,
            max_accuracy_loss=max_accuracy_loss,
            runtime=runtime,
            device=device,
            against_runtime=against_runtime,
            against_device=against_device,
            token=token,
        )
    return cast("ParityReport", needs("train", "export.parity").verify(request))


def bench(
    *artefacts: str | Path,
    batch_sizes: Sequence[int] = (1, 8, 64),
    runtime: str | Sequence[str] = ("auto",),
    device: str = "auto",
    threads: int | None = None,
    rounds: int = 15,
    memory: bool = True,
    out: str | Path | None = None,
) -> Latency:
    """Latency, throughput and memory of exported guards, with the bare classifier of the first beside them.

    All take turns in blocks of some milliseconds, in random order, so that whatever else the machine does meets them
    alike; a ratio is that of one round. The bare classifier is what is inside the first ``.onnx`` file between prepared
    pixels and logits; cutting it out needs the onnx package.

    Args:
        artefacts: exported guards of one classifier: precisions, scores, runtimes; run folders too (torch).
        batch_sizes: images per run.
        runtime: what runs ``.onnx`` files, as in `load`: one, or several in a list.
        device: "auto", "cpu" or "cuda".
        threads: intra-op threads of ONNX Runtime and OpenVINO; default their own choice.
        rounds: how many ratios there are.
        memory: measure memory too: each guard in a process of its own, at the largest batch size.
        out: ``NAME.html`` to write; ``NAME.json`` beside it. None writes nothing.

    Returns:
        `Latency`: ``print(latency)`` shows the table.

    Raises:
        ConfigError: guards whose images have different sizes.
    """
    from ..latency.measure import bench as run

    with BenchRequest.checked():
        request = BenchRequest(
            artefacts=tuple(path_given(path) for path in artefacts),
            batch_sizes=cast("Any", batch_sizes),
            runtime=cast("Any", runtime),
            device=device,
            threads=threads,
            rounds=rounds,
            memory=memory,
            out=path_of(out),
        )
    return run(request)


def calibrate(
    g: Guard | str | Path,
    data: Any,
    *,
    out: str | Path | None = None,
    alpha: float | None = None,
    class_conditional: bool | None = None,
    min_class_images: int | None = None,
    temperature_scaling: bool = False,
    batch_size: int = 64,
) -> Guard:
    """`Guard.calibrate` for data in any form: new thresholds and p-values, and a temperature, without retraining.

    Args:
        g: a guard or the path of one: a run folder, an ``.onnx`` or an ``.engine`` file.
        data: in-distribution images, in any form that `train` takes. Where this is the data the guard was trained on
            (same fingerprint), only the images it held out for calibration are used.
        out: where to write the guard, of the same kind as `g`; the path of `g` itself replaces it. None writes nothing.
        alpha: target false-alarm rate on in-distribution images; by default the guard's own.
        class_conditional: a threshold for every predicted class (see `Guard.calibrate`), or one for all; by default as
            the guard has it.
        min_class_images: a class with fewer of the images keeps the pooled threshold; default 50, or what `alpha`
            needs where that is more.
        temperature_scaling: fit the temperature of the probabilities anew; `data` needs labels then.
        batch_size: images per run of the graph.

    Returns:
        A new `Guard` over the same runtime.

    Raises:
        CalibrationError: an alpha that so few images cannot support, or images that no temperature fits.
    """
    from ..calibration.recalibrate import calibrate as run

    with CalibrateRequest.checked():
        request = CalibrateRequest(
            g=g,
            data=data,
            out=path_of(out),
            alpha=alpha,
            class_conditional=class_conditional,
            min_class_images=min_class_images,
            temperature_scaling=temperature_scaling,
            batch_size=batch_size,
        )
    return run(request)


def evaluate(
    g: Guard | str | Path,
    *,
    id: Any,
    ood: Mapping[str, Any] | None = None,
    near: Sequence[str] = (),
    out: str | Path | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
    max_images: int | None = None,
) -> Evaluation:
    """Accuracy, false-alarm rate and OOD detection of a guard, as a table, JSON and a self-contained HTML report.

    Args:
        g: a guard or the path of one.
        id: labelled in-distribution test images. Where this is the data the guard was trained on (same fingerprint),
            only its held-out test split is used, and the result says so.
        ood: name -> images (labels ignored).
        near: which of the names are near-OOD; the others are far-OOD. Each group gets a mean.
        out: ``report.html`` to write; ``report.json`` beside it. None writes nothing.
        bootstrap: resamples for the 95 % intervals; 0 for none.
        max_images: use at most this many images of each set, drawn at random by `seed`.

    Returns:
        `Evaluation`: ``print(evaluation)`` shows the table; ``.to_dict()`` the numbers.
    """
    from ..evaluation.evaluate import evaluate as run

    with EvaluateRequest.checked():
        request = EvaluateRequest(
            g=g,
            id=id,
            ood=mapping_of(ood),
            near=near,
            out=path_of(out),
            bootstrap=bootstrap,
            seed=seed,
            batch_size=batch_size,
            max_images=max_images,
        )
    return run(request)
