"""Bulk jobs as commands of their own: flat memory, a service that computes, a clean Ctrl-C."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from numpy.lib.format import open_memmap

from service.codecs import png
from service.engine import Engine
from tests.support.paths import BUNDLE, ROOT
from tests.support.processes import Server, environment
from tests.support.tiny import GREY
from tests.support.wire import KEY, some_images

MIB = 2**20


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "service", *map(str, arguments)]


def run(
    *arguments: str | Path, settings: dict[str, str] | None = None, **rest: object
) -> subprocess.CompletedProcess[str]:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=120,
        **rest,  # type: ignore[call-overload]
    )
    return done


def latents_of(path: Path) -> np.ndarray:
    column = pq.read_table(path).column("latent").combine_chunks()
    return np.asarray(column.flatten()).reshape(len(column), -1)


MEASURED = """
import sys
from pathlib import Path
from service.__main__ import main

status = main(sys.argv[1:])
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")))
sys.exit(status)
"""


def held(bundle: Path, rows: int, folder: Path) -> float:
    """Most MiB that a process holds, mapped files included, for so many rows of zeros."""
    path = folder / f"{rows}.npy"
    open_memmap(path, "w+", np.uint8, (rows, *GREY)).flush()  # a sparse file
    arguments = ["encode", path, "--out", folder / f"{rows}.parquet", "--bundle", bundle]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, arguments)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert pq.read_metadata(folder / f"{rows}.parquet").num_rows == rows
    return int(done.stdout.split()[-1]) / 1024


def test_memory_does_not_grow_with_the_rows(bundle_path: Path, tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc")
    few = held(bundle_path, 70_000, tmp_path)
    many = held(bundle_path, 1_400_000, tmp_path)  # 85 MiB of images, 21 MiB of latents
    assert many < few + 40
    assert many < 600


def test_a_service_computes(server: Server, tmp_path: Path, local_engine: Engine) -> None:
    images = some_images(700)
    np.save(tmp_path / "x.npy", images)
    out = tmp_path / "l.parquet"
    done = run("encode", tmp_path / "x.npy", "--out", out, "--url", server.url, "--batch", "300")
    assert (done.returncode, done.stderr) == (0, "")
    latents = local_engine.encode(images)
    np.testing.assert_allclose(latents_of(out), latents, rtol=0, atol=1e-5)
    metadata = pq.read_schema(out).metadata
    assert metadata[b"denoiser.fingerprint"].decode() == local_engine.fingerprint
    assert metadata[b"denoiser.precision"] == b"float32"
    back = tmp_path / "i.npy"
    assert run("decode", out, "--out", back, "--url", server.url).returncode == 0
    wanted = local_engine.decode(latents, dtype="uint8").astype(int)
    assert np.abs(np.load(back) - wanted).max() <= 1
    for dtype in ("uint8", "float32"):
        clean = tmp_path / f"{dtype}.npy"
        done = run(
            "denoise", tmp_path / "x.npy", "--out", clean, "--url", server.url, "--dtype", dtype
        )
        assert done.returncode == 0, done.stderr
        found = np.load(clean)
        assert found.dtype == dtype
        wanted = local_engine.denoise(images, dtype=dtype)
        assert np.abs(found.astype(float) - wanted).max() <= (1 if dtype == "uint8" else 1e-5)


def test_the_key_comes_from_the_environment(guarded_server: Server, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", some_images(3))
    arguments = ("encode", tmp_path / "x.npy", "--out", tmp_path / "l.npy")
    done = run(*arguments, "--url", guarded_server.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr
    done = run(*arguments, "--url", guarded_server.url, settings={"DENOISER_API_KEY": KEY})
    assert done.returncode == 0, done.stderr


def test_nobody_at_the_url(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", some_images(3))
    done = run("encode", tmp_path / "x.npy", "--out", tmp_path / "l.npy", "--url", "not a url")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("service: ")
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


def test_a_list_through_a_pipe(tmp_path: Path) -> None:
    from PIL import Image

    for at, image in enumerate(some_images(3)):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{at}.png")
    names = "".join(f"{tmp_path}/{at}.png\n" for at in (2, 0, 1))
    out = tmp_path / "l.parquet"
    done = run("encode", "-", "--out", out, "--bundle", BUNDLE, input=names)
    assert done.returncode == 0, done.stderr
    assert pq.read_table(out).column("id").to_pylist() == names.split()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_a_signal(number: int, bundle_path: Path, tmp_path: Path) -> None:
    open_memmap(tmp_path / "x.npy", "w+", np.uint8, (300_000, *GREY)).flush()
    out = tmp_path / "l.parquet"
    arguments = command("encode", tmp_path / "x.npy", "--out", out, "--bundle", bundle_path)
    arguments += ["--batch", "50"]
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore Ctrl-C, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    parts = tmp_path / ".l.parquet.parts"
    deadline = time.monotonic() + 60
    while len(list(parts.glob("part-*.arrow"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert message == f"service: stopped; the same command continues with {out}\n"
    assert len(list(parts.glob("part-*.arrow"))) >= 3 and not out.exists()


def test_decoders_end_with_a_killed_job(bundle_path: Path, tmp_path: Path) -> None:
    body = png.encode(np.zeros(GREY, np.uint8))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "first.png").write_bytes(body)
    for at in range(6000):
        (tmp_path / "in" / f"{at}.png").hardlink_to(tmp_path / "in" / "first.png")
    arguments = command("encode", tmp_path / "in", "--out", tmp_path / "l.npy")
    process = subprocess.Popen(
        [*arguments, "--bundle", str(bundle_path)], cwd=ROOT, env=environment()
    )
    parent, deadline = psutil.Process(process.pid), time.monotonic() + 60
    while not (children := parent.children()) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert children
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


def test_a_bar_for_a_terminal_only(bundle_path: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3000, *GREY), np.uint8))
    arguments = command("encode", tmp_path / "x.npy", "--bundle", bundle_path, "--batch", "100")
    quiet = subprocess.run(
        [*arguments, "--out", str(tmp_path / "a.npy")],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (quiet.returncode, quiet.stderr) == (0, "")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*arguments, "--out", str(tmp_path / "b.npy")],
        cwd=ROOT,
        env=environment({"TERM": "xterm", "COLUMNS": "120"}),
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            block = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not block:
            break
        shown += block
    os.close(ours)
    assert process.wait(60) == 0
    assert b"b.npy" in shown and b"3000/3000" in shown
