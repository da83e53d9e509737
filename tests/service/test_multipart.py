"""multipart/form-data: what browsers and curl send, and everything that is broken."""

from __future__ import annotations

import logging
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError, MalformedError, TooLargeError
from service.codecs import multipart
from service.codecs.multipart import Part
from service.codecs.steps import finish

TYPE = "multipart/form-data; boundary=bound"
DISPOSITION = b'Content-Disposition: form-data; name="f"; filename="a.png"'
END = b"--bound--\r\n"


def part(data: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"--bound", *(headers or (DISPOSITION,)), b"", data]) + b"\r\n"


def decode(body: bytes, content_type: str = TYPE, max_parts: int = 10) -> list[Part]:
    return finish(multipart.decode(body, content_type, max_parts=max_parts))


def test_thousands_of_parts_come_in_order() -> None:
    body = b"".join(
        part(b"%d" % n, b'Content-Disposition: form-data; name="x"; filename="%d.png"' % -n)
        for n in range(5000)
    )
    found = decode(body + END, max_parts=5000)
    assert found == [Part(f"{-n}.png", b"%d" % n) for n in range(5000)]


@pytest.mark.parametrize("field", ["", "file", "files[]", "images", "ü", "a b", "0" * 500])
def test_any_field_name(field: str) -> None:
    line = f'Content-Disposition: form-data; name="{field}"; filename="a.png"'.encode()
    assert decode(part(b"x", line) + END) == [Part("a.png", b"x")]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (DISPOSITION, "a.png"),
        (b"content-disposition: form-data; filename=a.png; name=f", "a.png"),
        (b"CONTENT-DISPOSITION:form-data;filename=a.png", "a.png"),
        (b'Content-Disposition: form-data; name="f"', ""),
        (b'Content-Disposition: form-data; filename=""', ""),
        (b"Content-Disposition: form-data; filename*=UTF-8''%E5%9B%BE.png", "图.png"),
        (b"Content-Disposition: form-data; filename=a; filename*=utf-8'zh'%E5%9B%BE.png", "图.png"),
        (b"Content-Disposition: form-data; filename*=iso-8859-1''%FC.png", "ü.png"),
        (b"Content-Disposition: form-data; filename=a.png; filename*=koi8-r''%C1", "a.png"),
        (b"Content-Disposition: form-data; filename=a.png; filename*=UTF-8", "a.png"),
        (b'Content-Disposition: form-data; filename="C:\\x\\a.png"', "C:\\x\\a.png"),
        (b'Content-Disposition: form-data; filename="a.png', ""),
        ('Content-Disposition: form-data; filename="ü 数 🙂.png"'.encode(), "ü 数 🙂.png"),
        (b'Content-Disposition: form-data; filename="a;b=\\"c\\".png"', 'a;b="c".png'),
        (b'Content-Disposition: form-data; filename="../../etc/passwd"', "../../etc/passwd"),
        (b'Content-Disposition: form-data; filename="\xff\xfe"', "\ufffd\ufffd"),
        (b"Content-Type: image/png", ""),
    ],
)
def test_file_names(line: bytes, name: str) -> None:
    assert decode(part(b"x", line) + END) == [Part(name, b"x")]


@pytest.mark.parametrize(
    "data",
    [b"", b"\r\n", b"\r\n\r\n", b"--", b"--bound", b"\n--bound", b"\r--bound--", b"\r\n--boun",
     b"\r\n-bound--\r\n", bytes(range(256)) * 300, b"\r\n--" * 10_000],
)  # fmt: skip
def test_the_bytes_of_a_part_are_its_own(data: bytes) -> None:
    assert decode(part(data) + part(b"next") + END) == [Part("a.png", data), Part("a.png", b"next")]


@pytest.mark.parametrize(
    "content_type",
    ["multipart/form-data; boundary=bound", 'multipart/form-data; boundary="bound"',
     "Multipart/Form-Data; charset=utf-8; Boundary=bound",
     "multipart/form-data;boundary=bound;x=y"],
)  # fmt: skip
def test_boundaries(content_type: str) -> None:
    assert decode(part(b"x") + END, content_type) == [Part("a.png", b"x")]


GOOD = part(b"x") + END
BROKEN = [
    ("empty", b"", TYPE),
    ("BentoML's empty body", b"{}", TYPE),
    ("no boundary", GOOD, "multipart/form-data"),
    ("an empty boundary", GOOD, "multipart/form-data; boundary="),
    ("an empty quoted boundary", GOOD, 'multipart/form-data; boundary=""'),
    ("a boundary of 71 characters", GOOD, "multipart/form-data; boundary=" + "b" * 71),
    ("a boundary of another charset", GOOD, "multipart/form-data; boundary=数"),
    ("an encoded boundary", GOOD, "multipart/form-data; boundary*=utf-8''bound"),
    ("another boundary", GOOD, "multipart/form-data; boundary=other"),
    ("no parts", END, TYPE),
    ("no end", part(b"x"), TYPE),
    ("cut in the end", GOOD[:-5], TYPE),
    ("cut in the data", GOOD[:-12], TYPE),
    ("cut in the headers", GOOD[:30], TYPE),
    ("cut behind the first boundary", b"--bound", TYPE),
    ("no headers' end", b"--bound\r\n" + DISPOSITION + b"\r\n" + END, TYPE),
    ("a header without a colon", part(b"x", b"Content-Disposition form-data") + END, TYPE),
    ("a header of odd bytes", part(b"x", b"\x00\xff: x") + END, TYPE),
    ("lines that end in LF", GOOD.replace(b"\r\n", b"\n"), TYPE),
    ("JSON", b'{"images": []}', TYPE),
    ("a PNG", b"\x89PNG\r\n\x1a\n" + bytes(100), TYPE),
    ("nine headers", part(b"x", *[b"X-%d: y" % n for n in range(9)]) + END, TYPE),
    ("a million headers", part(b"x", *[b"X: y"] * 1_000_000) + END, TYPE),
    ("a header of 3 kB", part(b"x", DISPOSITION + b"; x=" + b"y" * 3000) + END, TYPE),
    ("a header name of 1 MB", part(b"x", b"X" * 1_000_000 + b": y") + END, TYPE),
    ("a header without an end", b"--bound\r\nX: " + b"y" * 1_000_000, TYPE),
]


@pytest.mark.parametrize(
    ("body", "content_type"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN]
)
def test_broken_structures_are_malformed(
    body: bytes, content_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(MalformedError) as caught:
        decode(body, content_type)
    assert len(str(caught.value)) < 400
    assert caplog.records == []  # a client's mistake is no line in the server's log


def test_bytes_behind_the_end_are_left_alone_and_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG):
        assert decode(GOOD + b"an epilogue " * 1000) == [Part("a.png", b"x")]
    assert len(caplog.records) < 10


def test_too_many_parts() -> None:
    body = part(b"x") * 10
    assert len(decode(body + END)) == 10
    with pytest.raises(TooLargeError, match="more than 10 parts"):
        decode(body + part(b"x") + END)


def test_too_many_parts_are_refused_at_the_first_too_many() -> None:
    body = part(b"x") * 200_000
    started = time.process_time()
    with pytest.raises(TooLargeError):
        decode(body)
    assert time.process_time() - started < 0.2  # reading them all takes seconds


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(some: bytes) -> None:
    for body in (some, b"--bound\r\n" + some, part(some)[:-2] + END, part(b"x", some) + END):
        try:
            decode(body)
        except InputError:
            continue


@given(st.text(max_size=100))
def test_any_content_type_is_read_or_refused(parameter: str) -> None:
    for content_type in (parameter, f"multipart/form-data; boundary={parameter}"):
        try:
            decode(GOOD, content_type)
        except InputError:
            continue


@pytest.mark.parametrize("text", [";", '";', "=", ';a="', ';a="\\', "; a=", '\\"', "; "])
def test_parameters_are_read_in_linear_time(text: str) -> None:
    """100 kB took email.message 12 seconds."""
    seconds = []
    for size in (50_000, 400_000):
        began = time.process_time()
        multipart.boundary_of("multipart/form-data" + text * (size // len(text)))
        seconds.append(time.process_time() - began)
    assert seconds[1] < 32 * seconds[0] + 0.5
