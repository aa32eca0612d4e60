"""Hostile text in prompts, model names and tokens, in a real browser: no script of theirs runs."""

import pytest

from rgtg_hf.cli.playground.playground_app import _columns, _status
from rgtg_hf.inspection.inspect import Inspection
from rgtg_hf.inspection.trace import Candidate, Step, Trace
from tests.inspection.pages import CONFIG

pytestmark = pytest.mark.browser

# Each of them calls `owned()` wherever it is taken for markup or script, in one browser or another.
XSS = [
    "<script>owned()</script>",
    "<ScRiPt>owned()</sCrIpT>",
    "<scr<script>ipt>owned()</scr</script>ipt>",
    "</script><script>owned()</script>",
    "</style><script>owned()</script>",
    "</title><script>owned()</script>",
    "</textarea><script>owned()</script>",
    "--><script>owned()</script>",
    "]]><script>owned()</script>",
    "<img src=x onerror=owned()>",
    "<img src=x onerror=&#111;wned()>",
    "<img/src/onerror=owned()>",
    "\"><img src=x onerror=owned()>",
    "'><img src=x onerror=owned()>",
    "`><img src=x onerror=owned()>",
    "\" autofocus onfocus=owned() x=\"",
    "' autofocus onfocus=owned() x='",
    "\" onmouseover=owned() style=\"position:fixed;inset:0\"",
    "<svg onload=owned()>",
    "<svg><script>owned()</script></svg>",
    "<svg><animate onbegin=owned() attributeName=x dur=1s>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=owned()>",
    "<body onload=owned()>",
    "<input autofocus onfocus=owned()>",
    "<select autofocus onfocus=owned()>",
    "<details open ontoggle=owned()>",
    "<video><source onerror=owned()></video>",
    "<audio src=x onerror=owned()>",
    "<iframe srcdoc='<script>parent.owned()</script>'></iframe>",
    "<iframe src=javascript:parent.owned()></iframe>",
    "<object data=javascript:owned()>",
    "<embed src=javascript:owned()>",
    "<a href=javascript:owned() id=x>x</a>",
    "<form action=javascript:owned()><button autofocus>",
    "<meta http-equiv=refresh content='0;url=javascript:owned()'>",
    "<base href=javascript:/a/-owned()//>",
    "<link rel=stylesheet href=data:,*{x:expression(owned())}>",
    "<style>@import 'javascript:owned()';</style>",
    "<template><script>owned()</script></template>",
    "<noscript><p title=\"</noscript><img src=x onerror=owned()>\">",
    "<x onclick=owned() tabindex=1 autofocus onfocus=owned()>",
    "<marquee onstart=owned()>",
    "{{constructor.constructor('owned()')()}}",
    "${owned()}",
    "javascript:owned()",
    "&lt;script&gt;owned()&lt;/script&gt;",
    "&#60;script&#62;owned()&#60;/script&#62;",
    "\\x3cscript\\x3eowned()\\x3c/script\\x3e",
    "\u2028<script>owned()</script>",
    "\x00<script>owned()</script>",
    "<\x00script>owned()</script>",
    "+ADw-script+AD4-owned()+ADw-/script+AD4-",
]  # fmt: skip


def inspection():
    steps = [
        Step(text, False, 0.5 - i % 3, 0.1, (Candidate(text, 0.25, -1.0, 0.75, True),)) for i, text in enumerate(XSS)
    ]
    everything = "\n".join(XSS)
    return Inspection(everything, everything, everything, CONFIG, 0, Trace(steps, 1.0), Trace(steps, 1.0))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from tests.browser import chromium

    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        # Before any page's own scripts: what the hostile ones would call.
        trap = "window.hits = 0; window.owned = () => { window.top.hits += 1 };"
        browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": trap})
        yield browser


def visit(browser, tmp_path, source):
    """Opens a page, points at and focuses whatever is on it, and returns how often it called `owned()`."""
    file = tmp_path / "page.html"
    file.write_text(source, encoding="utf-8")
    browser.get(file.as_uri())
    browser.execute_script(
        "for (const e of document.querySelectorAll('*'))"
        " for (const kind of ['mouseover', 'focus', 'click', 'toggle', 'load']) e.dispatchEvent(new Event(kind));"
    )
    browser.execute_async_script("setTimeout(arguments[0], 500)")
    return browser.execute_script("return window.hits")


def test_the_trap_works(browser, tmp_path):
    assert visit(browser, tmp_path, "<!doctype html><body>" + "\n".join(XSS)) > 0


def test_the_page_of_inspect_runs_no_script_but_its_own(browser, tmp_path):
    source = inspection().to_html()
    assert visit(browser, tmp_path, source) == 0
    # And not by its content security policy alone.
    start = source.index('<meta http-equiv="Content-Security-Policy"')
    assert visit(browser, tmp_path, source[:start] + source[source.index(">", start) + 1 :]) == 0


def test_the_frame_for_notebooks_runs_no_script_but_its_own(browser, tmp_path):
    assert visit(browser, tmp_path, "<!doctype html><body>" + inspection()._repr_html_()) == 0


def test_the_playgrounds_columns_and_messages_run_no_script(browser, tmp_path):
    found = inspection()
    parts = [*_columns(found.guided, found.unguided), *map(_status, XSS)]
    assert visit(browser, tmp_path, "<!doctype html><body>" + "\n".join(parts)) == 0
