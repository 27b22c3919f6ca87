"""HTML and SVG from values: whatever is not markup already is escaped."""

import dataclasses
import html
import json

VOID = {"meta", "link", "br", "hr", "input"}  # elements that are never closed
LONGEST = 4000  # characters of one text; files may hold anything


@dataclasses.dataclass(frozen=True)
class Html:
    """Text that is markup: only `tag`, `join`, `data` and the page's own template make it."""

    text: str


NOTHING = Html("")


def escape(text: object) -> str:
    """Any value as text that is safe between tags and in quoted attributes.

    Long ones are cut; what no document may hold (control characters, lone surrogates) is replaced.
    """
    written = str(text)
    if len(written) > LONGEST:
        written = f"{written[:LONGEST]}… ({len(written):,} characters)"
    written = written.encode("utf-8", "replace").decode("utf-8")
    written = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in written)
    return html.escape(written, quote=True)


def tag(name: str, /, *children: Html | str, **attributes: object) -> Html:
    """One element.

    Args:
        name: of the element.
        children: markup as it is, texts escaped.
        attributes: `class_` is `class`, `stroke_width` is `stroke-width`; None leaves one out, True
            writes it without a value.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(*children).text}</{name}>")


def join(*parts: Html | str) -> Html:
    """Markup and texts side by side."""
    return Html("".join(p.text if isinstance(p, Html) else escape(p) for p in parts))


def data(name: str, value: object) -> Html:
    """Values for scripts of the page, as JSON in which no text can end the element.

    Args:
        name: id of the element.
        value: of JSON; its numbers are finite.
    """
    written = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":  # which in JSON stand in texts alone
        written = written.replace(character, f"\\u{ord(character):04x}")
    return Html(f'<script type="application/json" id="{escape(name)}">{written}</script>')


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if name == "d":  # a path of the library's own, which a cut would break
        return f' d="{html.escape(str(value), quote=True)}"'
    return f" {name}" if value is True else f' {name}="{escape(value)}"'
