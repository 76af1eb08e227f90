"""MkDocs hook: a link to a file outside docs/ leads to the repository, or is plain text where no repository is set."""

from __future__ import annotations

import posixpath
import re

LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>(?:\.\./)+[^)#\s]+)(?:#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page, config, **_) -> str:  # type: ignore[no-untyped-def]
    folder = posixpath.dirname(page.file.src_uri)

    def replace(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link["target"]))
        if not path.startswith("../"):
            return link[0]
        outside = path.removeprefix("../")
        if config.repo_url:
            return f"[{link['text']}]({config.repo_url.rstrip('/')}/blob/main/{outside})"
        return link["text"]

    return LINK.sub(replace, markdown)
