"""The playground's files over HTTP: types, headers, size, and nothing inline."""

from __future__ import annotations

import gzip
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from service.engine import Engine
from service.http import pages
from tests.support.asgi import Inner, Reply, ask

KEY = "a-key-of-some-length"
FILES = sorted(path for path in pages.FOLDER.iterdir() if path.is_file())
BUDGET = 150 * 1024  # bytes, of all files together, not compressed


def get(engine: Engine, path: str, method: str = "GET", **rest: object) -> Reply:
    reply = ask(engine, method, path, **rest)  # type: ignore[arg-type]
    assert reply is not None
    return reply


def route(path: Path) -> str:
    return pages.PAGE if path.name == "index.html" else f"{pages.PAGE}/{path.name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_file_is_answered_with_its_type_and_strict_headers(engine: Engine, path: Path) -> None:
    reply = get(engine, route(path), api_key=KEY)  # needs no key
    assert (reply.status, reply.body) == (200, path.read_bytes())
    assert reply.headers["content-type"] == pages.MEDIA_TYPES[path.suffix]
    header = reply.headers["content-security-policy"]
    policy = dict(part.split(" ", 1) for part in header.split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in header
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert reply.headers["cache-control"] == "no-cache"
    assert 'route="/playground"' in reply.metrics


def test_all_files_together_are_small() -> None:
    assert len(FILES) >= 10
    assert sum(path.stat().st_size for path in FILES) <= BUDGET


def test_a_browser_that_has_the_file_gets_304(engine: Engine) -> None:
    first = get(engine, pages.PAGE)
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = get(engine, pages.PAGE, headers={"if-none-match": known})
        assert (again.status, again.body) == (304, b""), known
        assert again.headers["etag"] == tag
        assert not {"content-length", "content-type"} & set(again.headers)
    assert get(engine, pages.PAGE, headers={"if-none-match": '"other"'}).status == 200
    assert get(engine, f"{pages.PAGE}/app.js").headers["etag"] != tag


def test_gzip_where_the_browser_accepts_it(engine: Engine) -> None:
    plain = get(engine, f"{pages.PAGE}/style.css")
    packed = get(engine, f"{pages.PAGE}/style.css", headers={"accept-encoding": "gzip, br"})
    assert packed.headers["content-encoding"] == "gzip"
    assert len(packed.body) < len(plain.body) / 2
    assert gzip.decompress(packed.body) == plain.body
    assert "content-encoding" not in plain.headers
    assert plain.headers["vary"] == packed.headers["vary"] == "accept-encoding"


def test_get_and_head_only(engine: Engine) -> None:
    head = get(engine, pages.PAGE, "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["content-length"]) == len((pages.FOLDER / "index.html").read_bytes())
    for method in ("POST", "PUT", "DELETE"):
        refused = get(engine, f"{pages.PAGE}/app.js", method)
        assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "path",
    [
        *("/playground/", "/playground/.", "/playground//app.js", "/playground/index.html"),
        *("/playground/nothing.js", "/playground/../app.py", "/playground/%2e%2e/app.py"),
    ],
)
def test_nothing_else_is_below_it(engine: Engine, path: str) -> None:
    assert get(engine, path).status == 404


def test_the_root_redirects_there_with_and_without_a_key(engine: Engine) -> None:
    for key in ("", KEY):
        reply = get(engine, "/", api_key=key)
        assert (reply.status, reply.headers["location"]) == (307, "playground")


def test_bentoml_s_page_is_at_api_and_loads_from_this_origin_alone(engine: Engine) -> None:
    inner = Inner()
    reply = get(engine, pages.API_PAGE, inner=inner)
    assert (reply.status, inner.asked) == (200, [("http", "/")])
    policy = reply.headers["content-security-policy"]
    assert "script-src 'self';" in policy and "default-src 'none'" in policy
    assert get(engine, pages.API_PAGE, api_key=KEY).status == 401


def test_docs_off_hides_it_all(engine: Engine) -> None:
    for path in ("/", pages.API_PAGE, *map(route, FILES)):
        assert get(engine, path, docs=False).status == 404, path
        assert get(engine, path, docs=False, api_key=KEY).status == 401, path


class Tags(HTMLParser):
    """All start tags of a page, and the text inside scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style"):
            self.inline += data.strip()


def test_the_page_has_nothing_inline_and_every_name_it_needs() -> None:
    page = Tags()
    page.feed((pages.FOLDER / "index.html").read_text())
    names = {path.name for path in FILES}
    assert page.inline == ""
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name == "style" or name.startswith("on")], tag
        for name in ("src", "href"):
            target = attributes.get(name) or ""
            if target.startswith("playground/"):
                assert target.removeprefix("playground/") in names, target
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers)
    scripts = "".join(path.read_text() for path in FILES if path.suffix == ".js")
    for identifier in re.findall(r'\bat\("([\w-]+)"\)', scripts):
        assert identifier in identifiers, identifier


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_refers_to_another_host_or_outside_its_folder(path: Path) -> None:
    text = path.read_text()
    allowed = "http://www.w3.org/2000/svg"  # a namespace, not an address
    assert not re.findall(r"(?:https?:)?//[\w-]+\.\w+", text.replace(allowed, ""))
    for imported in re.findall(r'\bfrom "(.*?)"', text):
        if path.suffix == ".js" and imported.endswith(".js"):
            assert (pages.FOLDER / imported).resolve() in FILES, imported
    assert "innerHTML" not in text and "eval(" not in text
    # relative addresses alone, so that it also works behind a path prefix
    assert not re.findall(r"""(?:href|src|fetch\()=?["'(]+/""", text)
