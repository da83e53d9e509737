"""How a client reaches its service: address, API key, proxy, certificates."""

from __future__ import annotations

import os
import re
import ssl
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpx

from denoiser_client.errors import ConfigError

PORTS = {"http": 80, "https": 443}


def connection_options(url: str, api_key: str | None) -> dict[str, Any]:
    """Keyword arguments for httpx clients that send to one address.

    httpx itself would read every proxy variable, also those that do not concern this address, and
    fail on the ones that it does not understand.

    Raises:
        ConfigError: the address, the key, the proxy or the certificate file is unusable.
    """
    address = _address(url)
    headers = {}
    if api_key:
        if address.userinfo:
            raise ConfigError("a user in the address and an API key", expected="one of them")
        if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
            raise ConfigError(
                "an API key with spaces, line breaks or letters outside ASCII",
                expected="the service's DENOISER_API_KEY",
            )
        headers["Authorization"] = f"Bearer {api_key}"
    proxy = _proxy(address)
    options = {"base_url": address, "headers": headers, "proxy": proxy, "trust_env": False}
    options["verify"] = _certificates() if address.scheme == "https" else False
    if proxy and proxy.url.scheme == "https":
        proxy.ssl_context = _certificates()
    return options


def shown(url: httpx.URL) -> str:
    """An address without its user and password."""
    return str(url.copy_with(userinfo=b"")).rstrip("/")


def _address(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
        if address.scheme in PORTS and _reachable(address):
            return address
        reason = ""
    except httpx.InvalidURL as exc:
        reason = f" ({exc})"
    raise ConfigError(
        f"the address {url!r}{reason}", expected="an address such as http://127.0.0.1:3000"
    )


def _reachable(url: httpx.URL) -> bool:
    return bool(url.host) and (url.port or 0) < 2**16


def _certificates() -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except OSError as exc:
        raise ConfigError(
            f"SSL_CERT_FILE={os.environ.get('SSL_CERT_FILE')} ({exc})",
            expected="a readable file of PEM certificates",
        ) from exc


def _exempt(host: str, entry: str) -> bool:
    """Entries of NO_PROXY that urllib does not know: "*.a.test", and networks as 10.0.0.0/8."""
    if entry.startswith("*."):
        return host.endswith(entry[1:])
    try:
        return ip_address(host) in ip_network(entry, strict=False)
    except ValueError:
        return False


def _proxy(address: httpx.URL) -> httpx.Proxy | None:
    """The proxy that the environment names for this address, if any."""
    port = address.port or PORTS[address.scheme]
    host = address.netloc.decode().removesuffix(f":{port}")  # IPv6 in brackets
    proxies = getproxies()
    url = (proxies.get(address.scheme) or proxies.get("all") or "").strip()
    exempt = any(_exempt(address.host, one.strip()) for one in proxies.get("no", "").split(","))
    if not url or exempt or any(map(proxy_bypass, (address.host, host, f"{host}:{port}"))):
        return None
    try:
        proxy = httpx.Proxy(url if "://" in url else f"http://{url}")
        httpx.AsyncHTTPTransport(proxy=proxy, verify=False)
        if not _reachable(proxy.url):
            raise ValueError("no host, or a port above 65535")
    except (ValueError, ImportError, httpx.InvalidURL) as exc:
        name = re.sub(r"^(\w+://)?.*@", r"\1", url)  # no password
        raise ConfigError(
            f"the proxy {name}, which the environment names",
            expected="http:// or https://, or socks5:// with the package httpx[socks]",
            hint=f"NO_PROXY={address.host} connects without it.",
        ) from exc
    return proxy
