"""Settings: every one documented, read from one place, refused by name."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from common.errors import SettingsError
from service.settings import PREFIX, ROOT, Settings


def test_defaults() -> None:
    settings = Settings.from_environment({})
    assert settings == Settings()
    assert settings.bundle == ROOT / "bundles" / "mnist"
    assert (ROOT / "service").is_dir()
    assert (settings.threads, settings.max_body) == (0, 64 * 1024 * 1024)


@pytest.mark.parametrize("field", fields(Settings), ids=lambda field: field.name)
def test_every_setting_is_documented(field: object) -> None:
    about = field.metadata["about"]  # type: ignore[attr-defined]
    assert len(about.split()) >= 3


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("DENOISER_BUNDLE", "bundles/other", "bundle", Path("bundles/other")),
        ("DENOISER_BUNDLE", "/a folder/ü", "bundle", Path("/a folder/ü")),
        ("DENOISER_THREADS", "0", "threads", 0),
        ("DENOISER_THREADS", "3", "threads", 3),
        ("DENOISER_THREADS", "1024", "threads", 1024),
        ("DENOISER_MAX_BODY", "1024", "max_body", 1024),
        ("DENOISER_MAX_BODY", "2147483648", "max_body", 2**31),
        ("DENOISER_MAX_BUFFERED", "1024", "max_buffered", 1024),
        ("DENOISER_MAX_ROWS", "1", "max_rows", 1),
        ("DENOISER_HOST", "0.0.0.0", "host", "0.0.0.0"),
        ("DENOISER_HOST", "::1", "host", "::1"),
        ("DENOISER_PORT", "65535", "port", 65535),
        ("DENOISER_WORKERS", "2", "workers", 2),
        ("DENOISER_CONCURRENCY", "1", "concurrency", 1),
        ("DENOISER_TIMEOUT", "0.5", "timeout", 0.5),
        ("DENOISER_API_KEY", "0123456789abcdef", "api_key", "0123456789abcdef"),
        ("DENOISER_CORS_ORIGINS", "*", "cors_origins", ("*",)),
        ("DENOISER_CORS_ORIGINS", "", "cors_origins", ()),
        ("DENOISER_CORS_ORIGINS", "https://a.org, http://localhost:8080", "cors_origins",
         ("https://a.org", "http://localhost:8080")),
        ("DENOISER_DOCS", "off", "docs", False),
        ("DENOISER_DOCS", " ON ", "docs", True),
    ],
)  # fmt: skip
def test_each_variable_sets_its_field_alone(
    variable: str, text: str, name: str, value: object
) -> None:
    settings = Settings.from_environment({variable: text, "PATH": "/bin"})
    assert getattr(settings, name) == value
    for field in fields(Settings):
        if field.name != name:
            assert getattr(settings, field.name) == getattr(Settings(), field.name)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("DENOISER_THREADS", "-1"),
        ("DENOISER_THREADS", "1025"),
        ("DENOISER_THREADS", "two"),
        ("DENOISER_THREADS", "1.5"),
        ("DENOISER_THREADS", ""),
        ("DENOISER_THREADS", "9" * 5000),
        ("DENOISER_MAX_BODY", "1023"),
        ("DENOISER_MAX_BODY", "2147483649"),
        ("DENOISER_MAX_BODY", "64MB"),
        ("DENOISER_MAX_BODY", "inf"),
        ("DENOISER_MAX_ROWS", "0"),
        ("DENOISER_HOST", "localhost"),
        ("DENOISER_HOST", "127.0.0.1:3000"),
        ("DENOISER_PORT", "0"),
        ("DENOISER_PORT", "65536"),
        ("DENOISER_WORKERS", "-1"),
        ("DENOISER_WORKERS", "257"),
        ("DENOISER_CONCURRENCY", "0"),
        ("DENOISER_TIMEOUT", "0"),
        ("DENOISER_TIMEOUT", "nan"),
        ("DENOISER_TIMEOUT", "inf"),
        ("DENOISER_TIMEOUT", "-1"),
        ("DENOISER_API_KEY", ""),
        ("DENOISER_API_KEY", "too-short"),
        ("DENOISER_API_KEY", "a key with spaces in it"),
        ("DENOISER_API_KEY", "schlüssel-schlüssel"),
        ("DENOISER_API_KEY", "0123456789abcdef\n"),
        ("DENOISER_CORS_ORIGINS", "example.org"),
        ("DENOISER_CORS_ORIGINS", "https://example.org/"),
        ("DENOISER_CORS_ORIGINS", "https://example.org/page"),
        ("DENOISER_CORS_ORIGINS", "https://a.org, *"),
        ("DENOISER_CORS_ORIGINS", "null"),
        ("DENOISER_CORS_ORIGINS", "https://a.org https://b.org"),
        ("DENOISER_DOCS", "yes"),
        ("DENOISER_DOCS", ""),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(variable: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({variable: text})
    about = {PREFIX + f.name.upper(): f.metadata["about"] for f in fields(Settings)}[variable]
    assert variable in caught.value.received
    assert about in caught.value.expected


def test_an_empty_bundle_is_refused() -> None:
    with pytest.raises(SettingsError, match="DENOISER_BUNDLE"):
        Settings.from_environment({"DENOISER_BUNDLE": ""})


def test_a_refused_key_is_not_told() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({"DENOISER_API_KEY": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_bounds_are_told_in_full() -> None:
    with pytest.raises(SettingsError, match="from 1024 to 2147483648"):
        Settings.from_environment({"DENOISER_MAX_BODY": "1"})


@pytest.mark.parametrize("variable", ["DENOISER_BUNDEL", "DENOISER_", "DENOISER_threads"])
def test_unknown_variables_are_refused_with_the_known_ones(variable: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({variable: "1"})
    assert variable in caught.value.received
    for field in fields(Settings):
        assert PREFIX + field.name.upper() in caught.value.expected


def test_the_environment_is_read_when_asked_and_not_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DENOISER_THREADS", "7")
    assert Settings.from_environment().threads == 7
    assert Settings().threads == 0
    monkeypatch.setenv("DENOISER_THREADS", "8")
    assert Settings.from_environment().threads == 8


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Settings().threads = 3  # type: ignore[misc]


def test_workers_and_threads_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, workers, threads in [(1, 1, 1), (2, 2, 1), (4, 4, 1), (16, 4, 4)]:
        monkeypatch.setattr("service.settings.usable_cores", lambda cores=cores: cores)
        assert (Settings().worker_count, Settings().thread_count) == (workers, threads)
    chosen = Settings(workers=2, threads=3)
    assert (chosen.worker_count, chosen.thread_count) == (2, 3)
    assert Settings(workers=2).thread_count == 8


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("DENOISER_SERVICE_HOST", "10.96.0.5"),
        ("DENOISER_SERVICE_PORT", "3000"),
        ("DENOISER_SERVICE_PORT_HTTP", "3000"),
        ("DENOISER_PORT", "tcp://10.96.0.5:3000"),
        ("DENOISER_PORT_3000_TCP", "tcp://10.96.0.5:3000"),
        ("DENOISER_PORT_3000_TCP_PROTO", "tcp"),
        ("DENOISER_PORT_3000_TCP_PORT", "3000"),
        ("DENOISER_PORT_3000_TCP_ADDR", "10.96.0.5"),
        ("DENOISER_CANARY_SERVICE_HOST", "10.96.0.6"),
        ("DENOISER_CANARY_PORT_80_UDP_ADDR", "10.96.0.6"),
    ],
)
def test_variables_of_kubernetes_services_are_left_alone(variable: str, text: str) -> None:
    """A Service named denoiser or denoiser-canary puts these into every pod of its namespace."""
    assert Settings.from_environment({variable: text}) == Settings()


def test_our_port_is_still_checked() -> None:
    assert Settings.from_environment({"DENOISER_PORT": "8080"}).port == 8080
    for text in ("x", "0", "10.96.0.5:3000"):
        with pytest.raises(SettingsError, match="DENOISER_PORT"):
            Settings.from_environment({"DENOISER_PORT": text})
    with pytest.raises(SettingsError, match="DENOISER_PORTS"):
        Settings.from_environment({"DENOISER_PORTS": "1"})
