"""Who may ask, how often and how much; and what the log does not say."""

from __future__ import annotations

import io
import json
import stat
from datetime import UTC, datetime, timedelta

import pytest

from persona4rec_pipeline.serving import access_log, security
from persona4rec_pipeline.serving.access_log import AccessLog
from persona4rec_pipeline.serving.limits import TokenBuckets
from persona4rec_pipeline.serving.security import ApiKeys, KeyProblem, check_door, host_name, is_loopback, log_key
from persona4rec_tests.index.builders import two_catalogues
from persona4rec_tests.serving.builders import is_problem, service_of, serving, settings_of

BODY = {"user_id": "ann", "candidates": ["emma", "dune"]}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    shop = two_catalogues(tmp_path_factory.mktemp("home"))
    shop.publish()
    return shop.home


@pytest.fixture
def keys(home) -> ApiKeys:
    folder = settings_of(home).serving_path
    (folder / security.FILE_NAME).unlink(missing_ok=True)
    return ApiKeys(folder)


def test_only_the_hash_of_a_key_is_kept_in_a_file_for_its_owner(keys):
    key = keys.add("shop")
    assert key not in keys.path.read_text()
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600
    assert keys.name_of(key.encode()) == "shop"


def test_two_keys_are_256_random_bits_each(keys):
    one, other = keys.add("one"), keys.add("other")
    assert one != other and len(one) >= len(security.PREFIX) + 43


def test_several_keys_are_valid_while_one_replaces_the_other(keys):
    old = keys.add("shop")
    new = keys.add("shop-2")
    assert {keys.name_of(old.encode()), keys.name_of(new.encode())} == {"shop", "shop-2"}
    keys.revoke("shop")
    assert (keys.name_of(old.encode()), keys.name_of(new.encode())) == (None, "shop-2")


def test_a_key_ends_when_it_expires(keys):
    key = keys.add("shop", datetime.now(UTC) - timedelta(seconds=1))
    assert keys.name_of(key.encode()) is None and not keys.any_valid()


def test_a_name_is_taken_once_and_again_after_it_was_revoked(keys):
    keys.add("shop")
    with pytest.raises(KeyProblem, match="shop-2"):
        keys.add("shop")
    keys.revoke("shop")
    keys.add("shop")
    with pytest.raises(KeyProblem, match="there are: shop"):
        keys.revoke("nobody")
    assert [(key.name, key.revoked_at is None) for key in keys.all()] == [("shop", False), ("shop", True)]


def test_a_damaged_file_of_keys_is_named_and_those_read_before_stay_valid(keys):
    key = keys.add("shop")
    keys.path.write_text("{")
    with pytest.raises(KeyProblem, match=r"api-keys\.json cannot be read"):
        keys.refresh()
    assert keys.name_of(key.encode()) == "shop"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.org", False),
    ],
)
def test_only_addresses_of_this_machine_count_as_its_own(host, loopback):
    assert is_loopback(host) is loopback


def test_beyond_this_machine_it_does_not_start_without_a_key_and_says_how_to_make_one(home, keys):
    settings = settings_of(home, host="0.0.0.0")
    with pytest.raises(KeyProblem, match=r"0\.0\.0\.0 is reached from other machines.*api-key add"):
        check_door(settings)
    with pytest.raises(KeyProblem), serving(home, host="0.0.0.0"):
        pass
    keys.add("shop")
    check_door(settings)


def test_with_keys_required_nothing_but_liveness_readiness_and_the_page_is_open(home, keys):
    key = keys.add("shop")
    with serving(home, require_key=True) as client:
        for response in (
            client.post("/v1/rerank", json=BODY),
            client.post("/rerank", json={"query": "ann", "documents": ["dune"]}),
            client.get("/v1/users"),
            client.get("/metrics"),
            client.get("/openapi.json"),
            client.get("/nowhere"),
        ):
            assert is_problem(response, 401), response.url
            assert response.headers["www-authenticate"].startswith("Bearer")
        assert client.get("/healthz").status_code == 200
        assert client.get("/").status_code == 200
        assert client.get("/readyz").json() == {"status": "ready"}
        for headers in ({"authorization": f"Bearer {key}"}, {"authorization": f"bearer {key}"}, {"x-api-key": key}):
            assert client.post("/v1/rerank", json=BODY, headers=headers).status_code == 200
        assert client.get("/readyz", headers={"x-api-key": key}).json()["generation"] == 1
        for wrong in (f"Bearer {key}x", "Bearer ", f"Basic {key}", key):
            assert is_problem(client.post("/v1/rerank", json=BODY, headers={"authorization": wrong}), 401)
        assert "persona4rec_unauthorised_total 10.0" in client.get("/metrics", headers={"x-api-key": key}).text


def test_keys_that_are_made_and_revoked_count_while_the_service_runs(home, keys):
    keys.add("first")
    with serving(home, require_key=True) as client:
        added = {"x-api-key": keys.add("second")}
        assert client.post("/v1/rerank", json=BODY, headers=added).status_code == 401
        service_of(client).look()
        assert client.post("/v1/rerank", json=BODY, headers=added).status_code == 200
        keys.revoke("second")
        service_of(client).look()
        assert client.post("/v1/rerank", json=BODY, headers=added).status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", ""])
def test_without_keys_a_name_that_leads_here_by_dns_is_not_answered(home, host):
    with serving(home) as client:
        assert is_problem(client.get("/v1/users", headers={"host": host}), 421)
        assert is_problem(client.post("/v1/rerank", json=BODY, headers={"host": host}), 421)


def test_a_name_of_a_proxy_is_answered_when_it_is_allowed(home):
    with serving(home, allowed_hosts=["Recs.example"]) as client:
        for host in ("recs.example", "recs.example:443", "localhost:8080", "[::1]:8080"):
            assert client.get("/v1/users", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    ("header", "name"), [(b"LOCALHOST:80", "localhost"), (b"[::1]:80", "[::1]"), (b"[::1", "[::1]"), (b"a:b:c", "a")]
)
def test_the_name_of_a_host_header(header, name):
    assert host_name(header) == name


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_without_keys_a_form_of_another_page_cannot_post(home, kind):
    with serving(home) as client:
        response = client.post("/v1/interactions", content=json.dumps(BODY), headers={"content-type": kind})
        assert is_problem(response, 415)


def test_with_keys_the_type_of_a_body_does_not_matter(home, keys):
    headers = {"x-api-key": keys.add("shop"), "content-type": "application/x-www-form-urlencoded"}
    with serving(home, require_key=True) as client:
        assert client.post("/v1/rerank", content=json.dumps(BODY), headers=headers).status_code == 200


def test_a_large_body_is_refused_whether_it_states_its_length_or_not(home):
    large = json.dumps({"user_id": "ann", "candidates": ["x" * 900] * 10}).encode()
    with serving(home, max_body_bytes=4096) as client:
        headers = {"content-type": "application/json"}

        def in_pieces():
            for start in range(0, len(large), 1000):
                yield large[start : start + 1000]

        for content in (large, in_pieces()):
            response = client.post("/v1/rerank", content=content, headers=headers)
            assert is_problem(response, 413) and "serving.max_body_bytes" in response.json()["detail"]
        assert client.post("/v1/rerank", json=BODY).status_code == 200


def test_more_candidates_than_allowed_are_refused_on_every_route_that_takes_them(home):
    many = ["dune"] * 6
    with serving(home, max_candidates=5) as client:
        for path, body in {
            "/v1/rerank": {"user_id": "ann", "candidates": many},
            "/rerank": {"query": "ann", "documents": many},
            "/rank/personas": {"user": "ann", "items": [{"id": name} for name in many]},
            "/rank/noop": {"user": "ann", "items": [{"id": name} for name in many]},
        }.items():
            response = client.post(path, json=body)
            assert is_problem(response, 422) and "serving.max_candidates" in response.json()["detail"]


def test_ten_thousand_candidates_are_answered(home):
    candidates = [f"item {number}" for number in range(9_998)] + ["emma", "dune"]
    with serving(home) as client:
        answer = client.post("/v1/rerank", json={"user_id": "ann", "candidates": candidates}).json()["candidates"]
        assert len(answer) == 10_000
        assert [item["item_id"] for item in answer[-2:]] == ["dune", "emma"]
        assert answer[0]["flags"] == ["unknown_item"]


def test_whoever_asks_too_often_is_told_when_to_come_again(home):
    with serving(home, requests_per_s=0.001, burst=2) as client:
        assert [client.post("/v1/rerank", json=BODY).status_code for _ in range(2)] == [200, 200]
        response = client.post("/v1/rerank", json=BODY)
        assert is_problem(response, 429)
        assert int(response.headers["retry-after"]) > 900
        assert client.get("/healthz").status_code == 200


def test_each_key_has_a_limit_of_its_own(home, keys):
    one, other = ({"x-api-key": keys.add(name)} for name in ("one", "other"))
    with serving(home, require_key=True, requests_per_s=0.001, burst=1) as client:
        codes = [client.post("/v1/rerank", json=BODY, headers=who).status_code for who in (one, one, other)]
        assert codes == [200, 429, 200]


def test_tokens_come_back_with_time_and_never_beyond_the_burst():
    buckets = TokenBuckets(2, burst=3)
    assert [buckets.take("a", now) for now in (0, 0, 0)] == [0, 0, 0]
    assert buckets.take("a", 0) == pytest.approx(0.5)
    assert buckets.take("a", 0.5) == 0
    assert buckets.take("b", 0.5) == 0
    assert [buckets.take("a", 100) for _ in range(3)] == [0, 0, 0] and buckets.take("a", 100) > 0


def test_callers_without_number_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr("persona4rec_pipeline.serving.limits.MAX_CALLERS", 10)
    buckets = TokenBuckets(1)
    for number in range(1000):
        buckets.take(f"caller {number}", 0)
    assert len(buckets._buckets) == 10


def test_too_many_requests_at_once_are_told_to_come_again(home):
    with serving(home, max_concurrent_requests=1) as client:
        service = service_of(client)
        service.in_progress += 1
        response = client.post("/v1/rerank", json=BODY)
        assert is_problem(response, 503) and response.headers["retry-after"] == "1"
        service.in_progress -= 1
        assert client.post("/v1/rerank", json=BODY).status_code == 200
        assert service.in_progress == 0


def test_no_answer_of_the_api_can_be_shown_as_a_page_or_in_a_frame(home):
    with serving(home) as client:
        for response in (client.get("/v1/users"), client.post("/v1/rerank", json=BODY), client.get("/nowhere")):
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["content-security-policy"].startswith("default-src 'none'")


def logged(home, *, tell, **options):
    """What the access log says of what `tell` asks a client."""
    stream = io.StringIO()
    with serving(home, **options) as client:
        service_of(client).log = AccessLog(100, stream)
        tell(client)
        service_of(client).log.flush()
    return stream.getvalue(), [json.loads(line) for line in stream.getvalue().splitlines()]


def test_the_log_tells_route_status_and_key_and_no_user_text_or_key(home, keys):
    key = keys.add("shop")

    def tell(client):
        headers = {"x-api-key": key}
        history = [{"title": "emma", "review": "My secret opinion."}]
        client.post("/v1/rerank", json={"user_id": "Very Secret", **BODY, "history": history}, headers=headers)
        client.get("/v1/users/Very%20Secret/recommendations?catalog=secret", headers=headers)
        client.get("/v1/rerank/Very%20Secret", headers=headers)

    text, lines = logged(home, tell=tell, require_key=True)
    assert [(line["route"], line["status"], line["key"]) for line in lines] == [
        ("/v1/rerank", 200, "shop"),
        ("/v1/users/{user_id}/recommendations", 200, "shop"),
        ("other", 404, "shop"),
    ]
    assert "ecret" not in text and key not in text and "emma" not in text


def test_a_user_of_an_experiment_stands_in_the_log_as_a_hash_that_needs_a_key(home):
    def tell(client):
        for user in ("ann", "ann", "cleo"):
            client.post("/v1/rerank", json=BODY | {"user_id": user})

    text, lines = logged(home, tell=tell, experiment={"name": "half", "weight": 0.5})
    users = [line["user"] for line in lines]
    assert users[0] == users[1] != users[2] and {line["variant"] for line in lines} <= {"control", "treatment"}
    assert '"ann"' not in text and len(users[0]) == 12
    key = log_key(settings_of(home).serving_path)
    assert users[0] == security.hashed_user(key, "ann") != security.hashed_user(b"another", "ann")


def test_beyond_its_rate_the_log_counts_what_it_leaves_out():
    stream = io.StringIO()
    log = AccessLog(round(3 / access_log.WRITE_EVERY_S), stream)
    for number in range(5):
        log.add("GET", f"/{number}", 200, 0.001)
    log.flush()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line.get("route") for line in lines] == ["/0", "/1", "/2", None] and lines[-1]["left_out"] == 2
    log.add("GET", "/again", 200, 0.001)
    log.flush()
    assert '"/again"' in stream.getvalue()
