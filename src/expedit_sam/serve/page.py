"""The page that describes the service: its OpenAPI description, with nothing from outside."""

from __future__ import annotations

from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font-family: ui-monospace, monospace; background: #8882; padding: .1em .3em }
pre { padding: 1em; overflow-x: auto }
"""
_EXAMPLE = """curl -F image=@photo.jpg -F 'prompts={"points": [[320, 200]]}' ADDRESS/masks
curl -F image=@photo.jpg -F format=png ADDRESS/masks > everything.png"""


def page(description: dict[str, Any]) -> str:
    """HTML of an OpenAPI description."""
    info = description["info"]
    operations = "".join(
        f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2>"
        f"<p>{escape(operation.get('description', ''))}</p>{_fields(description, operation)}"
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title>"
        "<meta name=viewport content='width=device-width'>"
        f"<style>{_STYLE}</style><h1>{escape(info['title'])}</h1>"
        f"<p>{escape(info['description'])}</p><pre>{escape(_EXAMPLE)}</pre>{operations}"
        "<p>For programs: <a href=openapi.json>openapi.json</a></p></html>"
    )


def _fields(description: dict[str, Any], operation: dict[str, Any]) -> str:
    """What a form is made of."""
    for content in operation.get("requestBody", {}).get("content", {}).values():
        name = content["schema"]["$ref"].rpartition("/")[2]
        fields = description["components"]["schemas"][name]["properties"]
        return "".join(
            f"<p><code>{escape(field)}</code> {escape(schema.get('description', ''))}</p>"
            for field, schema in fields.items()
        )
    return ""
