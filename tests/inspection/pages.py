"""Hostile texts, inspections of given texts, and the elements of a page."""

from html.parser import HTMLParser

from rgtg_hf.config import resolve_guidance
from rgtg_hf.inspection.inspect import Inspection
from rgtg_hf.inspection.trace import Candidate, Step, Trace

CONFIG = resolve_guidance({"beta": 1.5, "top_k": 5}).config
HOSTILE = [
    "<script>alert(1)</script>",
    "</style></script><img src=x onerror=alert(1)>",
    "\" onmouseover='alert(1)' x=\"",
    "</bdi></span></div></iframe><svg onload=alert(1)>",
    "<!--",
    "]]>",
    "&lt;script&gt;",
    "javascript:alert(1)",
    "\u202eevil\u2066",
    "\x00\x1b[31m\x85",
    "\ud800",
    "{{7*7}}${7*7}%s%(x)s{0}",
    "`${alert(1)}`",
]


class Elements(HTMLParser):
    """Every element with its attributes, and the text outside scripts and styles."""

    def __init__(self, source):
        super().__init__()
        self.found, self.text, self._raw = [], "", False
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._raw = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._raw = False

    def handle_data(self, data):
        if not self._raw:
            self.text += data


def make(texts, name="model"):
    steps = [
        Step(text, False, 0.5 - i % 3, 0.1, (Candidate(text, 0.25, -1.0, 0.75, True),)) for i, text in enumerate(texts)
    ]
    return Inspection("\n".join(texts), name, name, CONFIG, 0, Trace(steps, 1.0), Trace(steps, 1.0))
