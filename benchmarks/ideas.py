"""Section `ideas`: the engine's inner loop with one thing changed at a time, for LOG.md.

Each variant cuts the images into chunks and lets a thread on each core take the next one, as the
engine does. Its baseline is the variant that the engine is made like.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from threading import Thread
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks import machine, report
from benchmarks.agreement import DisagreementError
from benchmarks.harness import Spread, interleave
from benchmarks.material import Material
from benchmarks.settings import Settings
from common.arrays import Array
from common.cores import usable_cores

MODELS = {"autoencoder": "denoise", "encoder": "encode"}
IMAGES = 1_600  # short turns: the machine changes little within a round
BASELINE = "as the engine is"
FORMATS = (report.rate, report.ratio, report.ratio)


@dataclass(frozen=True)
class Variant:
    """How chunks are computed.

    Attributes:
        chunk: images in one `run`.
        shared: one session for all threads; False for one each.
        binding: outputs bound to the answer's own memory, instead of returned and copied.
        arena, pattern: ONNX Runtime's memory arena, and its plan of a run's memory.
        denormal_as_zero: numbers too small for full precision count as zero.
        parallel: ORT_PARALLEL, independent nodes at once.
        spinning: idle threads of the session spin.
        basic: graph optimisation without layout changes (ORT_ENABLE_EXTENDED).
        plain: on the plain exported graph, not on ours.
    """

    chunk: int = 16
    shared: bool = True
    binding: bool = False
    arena: bool = True
    pattern: bool = True
    denormal_as_zero: bool = False
    parallel: bool = False
    spinning: bool = True
    basic: bool = False
    plain: bool = False


LIKE_ENGINE = Variant()
VARIANTS = {
    BASELINE: LIKE_ENGINE,
    **{f"chunks of {size}": replace(LIKE_ENGINE, chunk=size) for size in (4, 8, 32, 64, 128)},
    "a session for each thread": replace(LIKE_ENGINE, shared=False),
    "outputs bound in place": replace(LIKE_ENGINE, binding=True),
    "no arena": replace(LIKE_ENGINE, arena=False),
    "no memory pattern": replace(LIKE_ENGINE, pattern=False),
    "neither arena nor pattern": replace(LIKE_ENGINE, arena=False, pattern=False),
    "denormals as zero": replace(LIKE_ENGINE, denormal_as_zero=True),
    "ORT_PARALLEL": replace(LIKE_ENGINE, parallel=True),
    "no spinning": replace(LIKE_ENGINE, spinning=False),
    "no layout optimisation": replace(LIKE_ENGINE, basic=True),
    "the plain graph": replace(LIKE_ENGINE, plain=True),
}


def run(settings: Settings, material: Material, say: Callable[[str], None]) -> dict[str, Any]:
    """All variants and the engine itself in turn; tables and `ideas.json`."""
    result: dict[str, Any] = {"machine": machine.facts(), "ideas": {}}
    for model, title in MODELS.items():
        found = _compare(settings, material, model)
        lines = [
            [name, *(text(facts) for text, facts in zip(FORMATS, row, strict=True))]
            for name, row in found.items()
        ]
        head = [title, "images/s (range)", "times as fast as now", "the same in CPU time"]
        say(f"{report.table(head, lines)}\n")
        result["ideas"][title] = {name: [asdict(x) for x in row] for name, row in found.items()}
    report.write_json(settings.results / "ideas.json", result)
    return result


def _compare(
    settings: Settings, material: Material, model: str
) -> dict[str, tuple[Spread, Spread, Spread]]:
    """Name → images/s, speed over the baseline by the clock and by CPU time."""
    images = min(settings.images, IMAGES)
    rows = material.rows(model, images)
    engine = material.engine
    now: Callable[[Array], Array] = engine.encode if model == "encoder" else engine.denoise
    wanted = now(rows)
    calls: dict[str, Callable[[], Array]] = {"the engine itself": partial(now, rows)}
    for name, variant in VARIANTS.items():
        calls[name] = partial(_opened(variant, material, model, wanted.shape[1:]), rows)
    for name, call in calls.items():
        if not np.allclose(call(), wanted, atol=1e-4, rtol=1e-4):
            raise DisagreementError(f"{name} answers otherwise than the engine")
    wall = interleave(calls, rounds=settings.rounds, settle=settings.settle)
    # CPU time of this process: what its neighbours take away does not count.
    cpu = interleave(calls, rounds=settings.rounds, settle=settings.settle, clock=time.process_time)
    return {
        name: (
            wall[name].rate(images),
            wall[name].speed_over(wall[BASELINE]),
            cpu[name].speed_over(cpu[BASELINE]),
        )
        for name in calls
    }


def _opened(
    variant: Variant, material: Material, model: str, answer_row: tuple[int, ...]
) -> Callable[[Array], Array]:
    """Rows float32 (N, H, W, C) → float32 (N, *answer_row), computed as the variant says."""
    path = material.plain_path(model) if variant.plain else material.bundle / f"{model}.onnx"
    threads = usable_cores()
    sessions = [_session(str(path), variant) for _ in range(1 if variant.shared else threads)]
    source, target = sessions[0].get_inputs()[0].name, sessions[0].get_outputs()[0].name

    def run(rows: Array) -> Array:
        answer = np.empty((len(rows), *answer_row), np.float32)
        ticket = count()  # next() on it is one step of the interpreter, so no lock

        def work(session: Any) -> None:
            binding = session.io_binding()
            while (begin := next(ticket) * variant.chunk) < len(rows):
                piece = slice(begin, begin + variant.chunk)
                if not variant.binding:
                    answer[piece] = session.run([target], {source: rows[piece]})[0]
                    continue
                part = answer[piece]
                binding.bind_cpu_input(source, rows[piece])
                binding.bind_output(
                    target, "cpu", 0, np.float32, list(part.shape), part.ctypes.data
                )
                session.run_with_iobinding(binding)

        workers = [Thread(target=work, args=(sessions[i % len(sessions)],)) for i in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return answer

    return run


def _session(path: str, variant: Variant) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = variant.arena
    options.enable_mem_pattern = variant.pattern
    if variant.denormal_as_zero:
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    if variant.parallel:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    if not variant.spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if variant.basic:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    return ort.InferenceSession(path, sess_options=options, providers=["CPUExecutionProvider"])
