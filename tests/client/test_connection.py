"""`denoiser_client` over real sockets: proxies, addresses, broken and odd answers."""

from __future__ import annotations

import gzip
import io
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest

from denoiser_client import ConfigError, DenoiserClient, RemoteError, UnavailableError

ROWS = np.arange(40, dtype=np.float32).reshape(20, 2)
NOWHERE = "http://127.0.0.1:9"
NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir")


def npy(rows: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, rows)
    return stream.getvalue()


class Service(ThreadingHTTPServer):
    """Answers `2 x`; `paths` and `headers` are those of its requests. `misbehave` may answer."""

    daemon_threads = True
    misbehave: Callable[[Handler], bool] | None = None

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, 0), Handler)
        self.paths: list[str] = []
        self.seen: list[dict[str, str]] = []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves is no error."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.paths.append(self.path)
        self.server.seen.append(dict(self.headers))
        if not (self.server.misbehave and self.server.misbehave(self)):
            self.result(npy(2 * np.load(io.BytesIO(self.body))))

    def result(self, body: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, text in {
            "X_Model_Fingerprint": "f",
            "Content_Length": len(body),
            **headers,
        }.items():
            if text != "":
                self.send_header(name.replace("_", "-"), str(text))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NAMES, *map(str.upper, NAMES)):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as running:
        yield running
        running.shutdown()


def url_of(service: Service) -> str:
    return f"http://127.0.0.1:{service.server_port}"


# ---------------------------------------------------------------- the environment


@pytest.mark.parametrize(
    "variables",
    [
        {"ALL_PROXY": "socks5://127.0.0.1:9", "NO_PROXY": "127.0.0.1"},
        {"ALL_PROXY": NOWHERE, "NO_PROXY": "127.0.0.1:{port}"},
        {"ALL_PROXY": NOWHERE, "NO_PROXY": "*"},
        {"http_proxy": NOWHERE, "no_proxy": "localhost, .test,127.0.0.1,[::1]"},
        {"NO_PROXY": "[::1]"},
        {"ALL_PROXY": NOWHERE, "NO_PROXY": "10.0.0.0/8, 127.0.0.0/8"},
        {"ALL_PROXY": NOWHERE, "NO_PROXY": "odd/8,1.2.3.4/99,[,::/0/1,127.0.0.1"},
        {"HTTP_PROXY": NOWHERE, "http_proxy": ""},
        {"https_proxy": "socks4://odd"},  # of another scheme
        {"SSL_CERT_FILE": "/nonexistent.pem"},
    ],
)
def test_variables_that_do_not_concern_the_address(
    service: Service, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, text in variables.items():
        monkeypatch.setenv(name, text.replace("{port}", str(service.server_port)))
    with DenoiserClient(url_of(service), retries=0) as client:
        np.testing.assert_array_equal(client.decode(ROWS), 2 * ROWS)


@pytest.mark.parametrize(
    ("url", "variables", "words"),
    [
        ("http://a.test", {"http_proxy": "ftp://me:secret@b.test"}, "proxy ftp://b.*NO_PROXY=a"),
        ("http://a.test", {"http_proxy": "me:secret@b.test:99999"}, "the proxy b.test:99999"),
        ("http://a.test", {"http_proxy": "http://:3128"}, "the proxy http://:3128"),
        ("http://a.test", {"ALL_PROXY": "b:port"}, "the proxy b:port"),
        ("https://a.test", {"SSL_CERT_FILE": "/nonexistent.pem"}, "SSL_CERT_FILE=/nonexistent.pem"),
        ("https://a.test", {"SSL_CERT_FILE": __file__}, "expected a readable file of PEM"),
        ("localhost:3000", {}, "expected an address such as http://127.0.0.1:3000"),
        ("https://a.test", {"SSL_CERT_FILE": str(Path(__file__).parent)}, "expected a readable"),
        ("https://a.test", {"SSL_CERT_FILE": "/dev/null"}, "expected a readable file of PEM"),
        ("http://a.test:port", {}, "Invalid port"),
        ("http://a.test:99999", {}, "the address 'http://a.test:99999'"),
        ("", {}, "the address ''"),
    ],
)
def test_what_cannot_work_is_an_error_at_once(
    monkeypatch: pytest.MonkeyPatch, url: str, variables: dict[str, str], words: str
) -> None:
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(ConfigError, match=words) as caught:
        DenoiserClient(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["a key", "key\n", "schlüssel"])
def test_a_key_that_no_header_can_hold(key: str) -> None:
    with pytest.raises(ConfigError, match="an API key with") as caught:
        DenoiserClient("http://a.test", key)
    assert key not in str(caught.value)
    with pytest.raises(ConfigError, match="expected one of them"):
        DenoiserClient("http://me:secret@a.test", "key")


def test_a_proxy_with_a_password(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f" me:s%40cret@127.0.0.1:{service.server_port}\n")
    with DenoiserClient("http://a.test/prefix") as client:
        np.testing.assert_array_equal(client.decode(ROWS), 2 * ROWS)
    assert service.paths == ["http://a.test/prefix/decode"]
    assert service.seen[0]["Proxy-Authorization"] == httpx.BasicAuth("me", "s@cret")._auth_header


@pytest.mark.parametrize(
    ("host", "exempt", "through"),
    [
        ("x.a.test", "*.a.test", False),
        ("xa.test", "*.a.test", True),
        ("a.test", "*.a.test", True),
        ("10.1.2.3", "10.0.0.0/8", False),
        ("11.1.2.3", "10.0.0.0/8", True),
        ("[fd00::1]", "fd00::/8", False),
        ("[fe00::1]", "10.0.0.0/8,fd00::/8", True),
    ],
)
def test_who_is_exempt(
    monkeypatch: pytest.MonkeyPatch, host: str, exempt: str, through: bool
) -> None:
    monkeypatch.setenv("ALL_PROXY", NOWHERE)
    monkeypatch.setenv("NO_PROXY", exempt)
    with DenoiserClient(f"http://{host}") as client:
        assert bool(client._client._via) is through


def test_a_proxy_that_wants_a_password(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def misbehave(handler: Handler) -> bool:
        handler.send_response(407)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    service.misbehave = misbehave
    monkeypatch.setenv("http_proxy", f"me:secret@127.0.0.1:{service.server_port}")
    words = f"status 407 Proxy Auth.* through the proxy {url_of(service)}"
    with (
        DenoiserClient("http://a.test") as client,
        pytest.raises(RemoteError, match=words) as caught,
    ):
        client.decode(ROWS)
    assert "secret" not in str(caught.value)


def test_a_proxy_that_is_down_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    words = "http://a.test through the proxy http://127.0.0.1:9: ConnectError"
    client = DenoiserClient("http://you:secret@a.test", retries=0)
    with client, pytest.raises(UnavailableError, match=words) as caught:
        client.decode(ROWS)
    assert "secret" not in str(caught.value)
    assert caught.value.hint == "NO_PROXY=a.test connects directly."


# ---------------------------------------------------------------- addresses


def test_a_path_in_front_and_a_slash_behind(service: Service) -> None:
    for path in ("/models/mnist", "/models/mnist/"):
        with DenoiserClient(url_of(service) + path) as client:
            client.decode(ROWS)
    assert set(service.paths) == {"/models/mnist/decode"}


def test_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        service = Service("::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")
    monkeypatch.setenv("ALL_PROXY", NOWHERE)
    with service:
        for exempt in ("::1", "[::1]", f"[::1]:{service.server_port}"):
            monkeypatch.setenv("NO_PROXY", exempt)
            with DenoiserClient(f"http://[::1]:{service.server_port}", retries=0) as client:
                np.testing.assert_array_equal(client.decode(ROWS), 2 * ROWS)
        service.shutdown()


# ---------------------------------------------------------------- broken and odd answers


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\nhalf",
        b"SSH-2.0-OpenSSH_9.6\r\n",
    ],
)
def test_a_broken_connection_is_retried(service: Service, sent: bytes, reset: bool) -> None:
    def misbehave(handler: Handler) -> bool:
        if len(service.paths) > 2:
            return False
        handler.wfile.write(sent)
        if reset:
            linger = struct.pack("ii", 1, 0)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.close_connection = True
        return True

    service.misbehave = misbehave
    with DenoiserClient(url_of(service)) as client:
        np.testing.assert_array_equal(client.decode(ROWS), 2 * ROWS)
    assert len(service.paths) == 3
    service.paths.clear()
    client = DenoiserClient(url_of(service), retries=1)
    with client, pytest.raises(UnavailableError, match=r"(Protocol|Read)Error.*\(2 tries\)"):
        client.decode(ROWS)


def test_interim_answers(service: Service) -> None:
    def misbehave(handler: Handler) -> bool:
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n")
        return False

    service.misbehave = misbehave
    with DenoiserClient(url_of(service)) as client:
        np.testing.assert_array_equal(client.decode(ROWS), 2 * ROWS)


def test_a_gzip_answer(service: Service) -> None:
    def misbehave(handler: Handler) -> bool:
        body = gzip.compress(npy(2 * ROWS))
        handler.result(body, Content_Encoding="gzip", Content_Length=str(len(body)))
        return True

    service.misbehave = misbehave
    with DenoiserClient(url_of(service)) as client:
        np.testing.assert_array_equal(client.decode(ROWS), 2 * ROWS)


def npz(rows: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, rows)
    return stream.getvalue()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        npy(ROWS)[:-8],
        b"<html>",
        npy(ROWS)[:70],
        npy(np.array(1.0)),
        npy(ROWS).replace(b"(20, 2), }" + 12 * b" ", b"(2" + 13 * b"0" + b", 2), }"),
        npz(ROWS),
        npz(ROWS)[:50],
    ],
    ids=["empty", "short", "html", "header", "scalar", "huge", "npz", "half-npz"],
)
def test_a_result_that_is_none(service: Service, body: bytes) -> None:
    """Cut off where no length says so, or replaced on its way."""

    def misbehave(handler: Handler) -> bool:
        handler.result(body, Content_Length="", Connection="close")
        return True

    service.misbehave = misbehave
    with DenoiserClient(url_of(service)) as client:
        with pytest.raises(RemoteError, match=r"status 200 OK.*expected a result"):
            client.decode(ROWS)
        with pytest.raises(RemoteError, match=r"status 200 OK.*expected a result"):
            client.score(ROWS)


@pytest.mark.parametrize("scores", ["", "0.5", ",".join("x" * len(ROWS))])
def test_scores_that_a_proxy_removed_or_altered(service: Service, scores: str) -> None:
    def misbehave(handler: Handler) -> bool:
        handler.result(npy(ROWS), X_Scores=scores)
        return True

    service.misbehave = misbehave
    with (
        DenoiserClient(url_of(service)) as client,
        pytest.raises(RemoteError, match="expected a result"),
    ):
        client.score(ROWS)


def test_the_timeout_is_of_the_whole_answer(service: Service) -> None:
    """One byte each 50 ms would keep a limit between bytes waiting for ever."""
    left = threading.Event()

    def misbehave(handler: Handler) -> bool:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not left.wait(0.05):
            handler.wfile.write(b"x")
        return True

    service.misbehave = misbehave
    began = time.monotonic()
    with (
        DenoiserClient(url_of(service), timeout=0.5) as client,
        pytest.raises(UnavailableError, match=r"no whole answer in 0.5 s \(1 tries\)"),
    ):
        client.decode(ROWS)
    left.set()
    assert time.monotonic() - began < 10


# ---------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a self-signed certificate for 127.0.0.1, in one file."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl on this machine")
    path = tmp_path_factory.mktemp("tls") / "own.pem"
    command = "openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 2"
    command += f" -subj /CN=own -addext subjectAltName=IP:127.0.0.1 -keyout {path}.key -out {path}"
    subprocess.run(command.split(), check=True, capture_output=True)
    return path


@pytest.fixture
def tls_service(service: Service, certificate: Path) -> Service:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, f"{certificate}.key")
    service.socket = context.wrap_socket(
        service.socket, server_side=True, do_handshake_on_connect=False
    )
    return service


def test_certificates_of_an_own_authority(
    tls_service: Service, monkeypatch: pytest.MonkeyPatch, certificate: Path
) -> None:
    url = url_of(tls_service).replace("http", "https")
    words = r"CERTIFICATE_VERIFY_FAILED.*\(1 tries\).*SSL_CERT_FILE names"
    with DenoiserClient(url) as client, pytest.raises(UnavailableError, match=words):
        client.decode(ROWS)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with DenoiserClient(url) as client:
        np.testing.assert_array_equal(client.decode(ROWS), 2 * ROWS)
    monkeypatch.setenv("http_proxy", url.replace("//", "//me:secret@"))
    with DenoiserClient("http://a.test") as client:
        np.testing.assert_array_equal(client.decode(ROWS), 2 * ROWS)
    assert tls_service.paths == ["/decode", "http://a.test/decode"]


def test_a_service_without_tls(service: Service) -> None:
    url = url_of(service).replace("http", "https")
    with (
        DenoiserClient(url) as client,
        pytest.raises(UnavailableError, match=r"\[SSL.*\(1 tries\)"),
    ):
        client.decode(ROWS)
