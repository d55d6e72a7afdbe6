from __future__ import annotations

import base64
import hashlib
import re

from serving.ui import PAGE, content_security_policy


def test_the_page_is_self_contained() -> None:
    html = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)""", html) == []
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) == {"http://www.w3.org/2000/svg"}  # a name, never fetched
    assert re.findall(r"""\s(?:style|on\w+)\s*=\s*["']""", html) == []  # the policy would block them


def test_the_policy_allows_the_pages_own_script_and_no_other() -> None:
    script = "let x = 1;"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = content_security_policy(f"<style>a</style><script>{script}</script>")
    assert f"script-src 'sha256-{digest}';" in policy
    assert f"script-src 'sha256-{digest}';" not in content_security_policy(
        f"<style>a</style><script>{script} </script>"
    )


def test_the_page_and_its_words_come_from_text_nodes_only() -> None:
    """A class name or a file name is never parsed as HTML."""
    html = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", html) == []
