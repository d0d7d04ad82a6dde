"""A visitor that nobody knows: recommendations from what they look at now, and from what they say they like, over HTTP.

Run it after `make demo`, beside a server that is running: `make serve` (or `persona4rec serve`), which reads PERSONA4REC_HOME.

    .venv/bin/python examples/session_over_http.py                     # seen now: "Dracula" and "Jane Eyre"
    .venv/bin/python examples/session_over_http.py "Moby" "Treasure"   # parts of titles, most recent first

PERSONA4REC_URL says where the server is (default: http://127.0.0.1:8080), PERSONA4REC_API_KEY is sent where there is one.
"""

from __future__ import annotations

import os
import sys
import uuid
from typing import Any

import httpx


def main() -> None:
    key = os.environ.get("PERSONA4REC_API_KEY")
    with httpx.Client(
        base_url=os.environ.get("PERSONA4REC_URL", "http://127.0.0.1:8080"),
        headers={"authorization": f"Bearer {key}"} if key else {},
        timeout=30,
    ) as client:
        seen = [find(client, title) for title in sys.argv[1:] or ["Dracula", "Jane Eyre"]]
        # A new id each time, as a cookie would be; the id may stay the same when the visitor registers.
        visitor = f"visitor-{uuid.uuid4()}"

        stranger = recommend(client, {"user_id": visitor, "k": 5})
        show("Nothing is known of the visitor", stranger)

        question = {"user_id": visitor, "session": [named(item) for item in seen], "k": 5}
        before = recommend(client, question)
        show(f"They look at {' and '.join(item['title'] for item in seen)}", before)

        liked = before["recommendations"][0]
        taken = client.post(
            "/v1/interactions",
            json={"user_id": visitor, "item": named(liked), "kind": "like", "id": str(uuid.uuid4())},
        )
        # 202: it is on the disk, counts from now on, and comes into the index with the next nightly run.
        taken.raise_for_status()
        after = recommend(client, question)
        show(f"They like {liked['title']}", after)
        changed = [item["title"] for item in before["recommendations"]] != [
            item["title"] for item in after["recommendations"]
        ]
        print("The next answer has changed." if changed else "The next answer is the same.")


def find(client: httpx.Client, title: str) -> dict[str, Any]:
    found = client.get("/v1/items", params={"query": title, "limit": 1}).raise_for_status().json()["items"]
    if not found:
        raise SystemExit(f"There is no item with {title!r} in its title.")
    item: dict[str, Any] = found[0]
    return item


def named(item: dict[str, Any]) -> dict[str, str]:
    return {"catalog": item["catalog"], "item_id": item["item_id"]}


def recommend(client: httpx.Client, question: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = client.post("/v1/recommendations", json=question).raise_for_status().json()
    return answer


def show(what: str, answer: dict[str, Any]) -> None:
    print(f"{what} (fallback: {answer['fallback']})")
    for place, item in enumerate(answer["recommendations"], start=1):
        print(f"  {place}. {item['title']}: {item['persona_name'] or item['why']}")
    print()


if __name__ == "__main__":
    try:
        main()
    except httpx.ConnectError as error:
        raise SystemExit(f"No server answers at {error.request.url}; start one with `make serve`.") from error
