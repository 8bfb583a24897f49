"""Who may ask a studio: nobody without its token, by another name, or from another site's page."""

import secrets

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from secura.studio.access import Access, Key

HOME = "http://127.0.0.1:8765"


def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"{request.method} let in")


def client(key: Key, host: str = "127.0.0.1", address: str = HOME) -> TestClient:
    app = Starlette(routes=[Route("/", echo, methods=["GET", "POST"]), Route("/run/x", echo)])
    return TestClient(Access(app, key, host), base_url=address)


@pytest.fixture
def key() -> Key:
    return Key.made_for(8765)


def come_in(visitor: TestClient, key: Key) -> TestClient:
    assert visitor.get("/", params={"token": key.token}).status_code == 200
    return visitor


def test_without_the_token_nothing_is_shown(key: Key) -> None:
    visitor = client(key)
    for answer in (visitor.get("/"), visitor.get("/run/x"), visitor.post("/", headers={"origin": HOME})):
        assert answer.status_code == 401
        assert "let in" not in answer.text


@pytest.mark.parametrize("token", ["", "x", "é", "' or 1=1"])
def test_a_wrong_token_sets_no_cookie(key: Key, token: str) -> None:
    answer = client(key).get("/", params={"token": token})
    assert answer.status_code in (401, 403)
    assert "set-cookie" not in answer.headers


def test_the_token_is_traded_for_a_cookie_that_no_script_and_no_other_site_can_use(key: Key) -> None:
    visitor = client(key)
    answer = visitor.get("/", params={"token": key.token})
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert key.token not in cookie + answer.text  # it leaves the address with this page
    assert visitor.get("/").text == "GET let in"


def test_the_token_opens_by_its_own_address_alone(key: Key) -> None:
    visitor = client(key)
    assert visitor.get("/run/x", params={"token": key.token}).status_code == 401
    assert visitor.post("/", params={"token": key.token}, headers={"origin": HOME}).status_code == 401


def test_secrets_are_compared_in_constant_time(key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    plain = secrets.compare_digest

    def watched(given: bytes, own: bytes) -> bool:
        compared.append((given, own))
        return plain(given, own)

    monkeypatch.setattr("secura.studio.access.secrets.compare_digest", watched)
    come_in(client(key), key).get("/")
    assert [own.decode() for _, own in compared] == [key.token, key.session]


def test_two_studios_of_one_machine_have_two_cookies(key: Key) -> None:
    other = Key.made_for(8766)
    assert other.cookie != key.cookie
    visitor = client(key)
    visitor.cookies.set(other.cookie, other.session)
    visitor.cookies.set(key.cookie, other.session)
    assert visitor.get("/").status_code == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "10.0.0.7:8765", "[::1", "", "localhost."]
)
def test_a_name_that_is_led_here_from_elsewhere_is_refused(key: Key, host: str) -> None:
    visitor = come_in(client(key), key)
    assert visitor.get("/", headers={"host": host}).status_code == 400
    assert visitor.get("/", params={"token": key.token}, headers={"host": host}).status_code == 400


@pytest.mark.parametrize("host", ["localhost:8765", "127.0.0.1:9999", "[::1]:8765", "LOCALHOST:1"])
def test_the_machines_own_names_may_be_used_through_a_tunnel_of_another_port(key: Key, host: str) -> None:
    assert client(key, address=f"http://{host}").get("/", params={"token": key.token}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"), [("10.0.0.7:8765", 200), ("[fe80::1]:8765", 200), ("box:8765", 400), ("evil.example", 400)]
)
def test_with_another_interface_numbers_are_let_in_and_names_are_not(key: Key, host: str, status: int) -> None:
    visitor = client(key, host="0.0.0.0", address=f"http://{host}")
    assert visitor.get("/", params={"token": key.token}).status_code == status


def test_the_name_given_with_host_may_be_used(key: Key) -> None:
    assert client(key, host="Box", address="http://box:1").get("/", params={"token": key.token}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [None, "null", "", "http://evil.example", "http://127.0.0.1:9999", "http://localhost:8765", "127.0.0.1:8765"],
)
def test_a_form_that_no_page_of_the_studio_sent_does_nothing(key: Key, origin: str | None) -> None:
    visitor = come_in(client(key), key)
    assert visitor.post("/", headers={} if origin is None else {"origin": origin}).status_code == 403
    assert visitor.post("/", headers={"origin": HOME}).text == "POST let in"


def test_every_answer_allows_no_inline_script_and_is_kept_nowhere(key: Key) -> None:
    visitor = client(key)
    answers = [visitor.get("/"), visitor.get("/", params={"token": key.token}), visitor.get("/"), visitor.post("/")]
    assert [answer.status_code for answer in answers] == [401, 200, 200, 403]
    for answer in answers:
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == "'self'"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"  # by which a form names its origin
