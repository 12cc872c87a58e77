"""What the Hub of the tests answers beyond repositories: the list of datasets, and collections."""

import itertools
import re
from typing import Any
from urllib.parse import urlencode, urlsplit

from hub_store import Refused, now, route

PAGE = 100  # rows of a page where no limit asks for fewer
SORTED = ("downloads", "likes", "lastModified")
COLLECTION = "/api/collections/(?P<slug>[^/]+/[^/]+)"
NUMBERS = itertools.count(1)


@route("GET", "/api/datasets")
def list_datasets(hub: Any, request: Any):
    """Datasets that carry every tag asked for, page by page."""
    query, own = request.query, hub._namespaces(request.token, write=False)
    sets = [repo for repo in hub.repos.values() if repo.type == "dataset"]
    rows = [repo.facts() for repo in sets if not repo.private or repo.namespace in own]
    rows = [row for row in rows if {*query.get("filter", [])} <= {*row["tags"]}]
    rows = [row for row in rows if row["author"] in query.get("author", [row["author"]])]
    (order,) = query.get("sort", ["likes"])
    if order not in SORTED:
        raise Refused(400, f"Invalid sort: {order}")
    rows.sort(key=lambda row: row[order], reverse=True)
    start, size = int(query.get("cursor", ["0"])[0]), min(PAGE, int(query.get("limit", [PAGE])[0]))
    wanted = {
        "id",
        *query.get("expand", ["author", "sha", "lastModified", "private", "gated", "tags", "downloads", "likes"]),
    }
    page = [{name: value for name, value in row.items() if name in wanted} for row in rows[start : start + size]]
    if start + size >= len(rows):
        return page
    more = urlencode({**query, "cursor": start + size}, doseq=True)
    return 200, page, {"Link": f'<{hub.endpoint}{urlsplit(request.path).path}?{more}>; rel="next"'}


def _own(hub: Any, request: Any, namespace: str) -> None:
    if request.token is None:
        raise Refused(401, "Invalid username or password.")
    if namespace not in hub._namespaces(request.token, write=True):
        raise Refused(403, f'You don\'t have the rights to write collections of "{namespace}"')


def _found(hub: Any, request: Any, slug: str) -> dict:
    if slug not in hub.collections:
        raise Refused(404, "Collection not found")
    if request.method != "GET":
        _own(hub, request, slug.split("/")[0])
    return hub.collections[slug]


@route("GET", "/api/collections")
def list_collections(hub: Any, request: Any):
    """Those of an owner, with their first items."""
    (owner,) = request.query["owner"]
    shown = [own for own in hub.collections.values() if own["owner"]["name"] == owner]
    return [{name: own[name] for name in own if name != "position"} | {"items": own["items"][:4]} for own in shown]


@route("POST", "/api/collections")
def create_collection(hub: Any, request: Any):
    """One of each title in a namespace."""
    asked = request.json
    _own(hub, request, asked["namespace"])
    if len(asked["title"]) >= 60 or len(asked.get("description", "")) > 150:
        raise Refused(400, "The title or the description is too long")
    for slug, other in hub.collections.items():
        if (slug.split("/")[0], other["title"]) == (asked["namespace"], asked["title"]):
            return 409, {"error": "This collection exists already", "slug": slug}, {}
    words = re.sub("[^a-z0-9]+", "-", asked["title"].lower()).strip("-")
    slug = f"{asked['namespace']}/{words}-{next(NUMBERS):024x}"
    made = {"slug": slug, "owner": {"name": asked["namespace"]}, "items": [], "lastUpdated": now(), "position": 0}
    made |= {"title": asked["title"], "description": asked.get("description"), "private": asked["private"]}
    hub.collections[slug] = made | {"theme": "green", "upvotes": 0}
    return hub.collections[slug]


@route("GET PATCH", COLLECTION)
def collection(hub: Any, request: Any, slug: str):
    """Show or change one."""
    found = _found(hub, request, slug)
    if request.method == "GET":
        return found
    found |= request.json
    return {"data": found}


@route("POST", f"{COLLECTION}/items")
def add_item(hub: Any, request: Any, slug: str):
    """Add a repository, once."""
    found, asked = _found(hub, request, slug), request.json
    kind, name = asked["item"]["type"], asked["item"]["id"]
    key = {"dataset": name, "model": f"models/{name}", "space": f"spaces/{name}"}[kind]
    hub._readable(request, key)
    if any((item["type"], item["id"]) == (kind, name) for item in found["items"]):
        raise Refused(409, "This item is in the collection already")
    item = {"_id": f"{next(NUMBERS):024x}", "id": name, "type": kind, "position": len(found["items"])}
    found["items"].append(item | _note(asked))
    return found


@route("PATCH DELETE", f"{COLLECTION}/items/(?P<item>[0-9a-f]+)")
def change_item(hub: Any, request: Any, slug: str, item: str):
    """Change a note, or remove an item."""
    found = _found(hub, request, slug)
    (own,) = [one for one in found["items"] if one["_id"] == item] or [None]
    if own is None:
        raise Refused(404, "Item not found")
    if request.method == "DELETE":
        found["items"].remove(own)
    else:
        own |= _note(request.json)
    return {"success": True}


def _note(asked: dict) -> dict:
    note = asked.get("note")
    if note and len(note) > 500:
        raise Refused(400, "The note is too long")
    return {"note": {"text": note, "html": note}} if note else {}
