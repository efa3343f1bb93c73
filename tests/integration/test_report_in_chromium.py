"""The report in a real browser: its style applies, its policy is kept, and nothing in a name is ever run."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from orchestrator.report import ReportData, render_html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs the system package chromium"),
]

PAYLOADS = [
    "<script>document.title='pwned'</script>",
    "<img src=x onerror=\"document.title='pwned'\">",
    '"><svg onload="document.title=\'pwned\'">',
    "</style></title></svg><script>document.title='pwned'</script>",
    "<style>@import 'http://127.0.0.1:9/x.css';</style><link rel=stylesheet href=http://127.0.0.1:9/>",
    "<meta http-equiv=refresh content='0;url=data:text/html,pwned'>",
    "<base href=http://127.0.0.1:9/><iframe srcdoc=\"<script>parent.document.title='pwned'</script>\">",
    "\u202e\u2066<a href=javascript:document.title='pwned'>click</a>\x00\x1b]8;;\x07",
]


def night(name):
    """Two model versions, all of whose texts are `name`, with a row of everything that the report draws."""
    models = (name, f"{name} again")
    texts = {"registry": name, "version": name, "recipe": name, "model_digest": name, "run_id": name}
    chains, tables = [], {}

    def add(table, key, model, **columns):
        tables.setdefault(table, []).append({**texts, "unit_key": key, "model": model, **columns})

    for index, model in enumerate(models):
        key, verdict = f"k{index}", ("block", "pass")[index]
        chains.append({**texts, "model": model, "units": [key], "state": "done", "verdict": verdict})
        for place in range(4):
            layer = f"{name}.{place}.{model}"
            amount = 0.3 + 0.1 * place
            add("layers", key, model, layer=layer, amount_asked=0.5, amount=amount)
            for step in (0.3, 0.6, 0.9):
                add("sensitivity", key, model, layer=layer, criterion=name, pattern=name, method=name, metric=name,
                    amount=step, delta=step * (place + 1) ** 3, stderr=0.1)  # fmt: skip
        add("artifacts", key, model, digest=key, dense_bytes=100, bytes=90, dense_parameters=50, nonzero_parameters=20 + index,
            dense_latency_seconds=1.0, latency_seconds=0.5, runtime=name,
            calibration_loss=1.7, predicted_increase=0.07, measured_increase=0.08)  # fmt: skip
        for step in ("bias", name):
            add("recoveries", key, model, step=step, loss_before=2.0, loss_after=1.5, kept=step == name)
        for part, drop in (("all", 0.05), (f"{name}=1", 0.2), (name, -0.01)):
            add("evaluations", key, model, dataset=name, metric="perplexity", slice=part, samples=40, dense_value=10.0,
                value=10 * (1 + drop), delta=10 * drop, ci_low=10 * drop - 1, ci_high=10 * drop + 1, kl_divergence=0.1)  # fmt: skip
            add(
                "verdicts",
                key,
                model,
                verdict=verdict,
                gate="max_drop",
                slice=part,
                observed=drop,
                limit=0.1,
                p_value=0.01,
            )
        add("findings", key, model, kind=name, subject=name, message=name)
        add("units", key, model, pool=name, wall_seconds=3.0, predicted_seconds=2.0)
    at = datetime(2026, 11, 22, tzinfo=UTC)
    return ReportData(
        run={"run_id": name, "fleet": name, "started_at": at, "finished_at": at, "outcome": name, "exit_code": 3},
        chains=chains,
        failures=[{"subject": name, "recipe": name, "class": name, "error": name}],
        impossible=[{"subject": name, "recipe": name, "reason": name}],
        publications=[{"registry": name, "model": name, "recipe": name, "alias": name, "published_version": name, "artifact_digest": "k1"}],
        **tables,
    )  # fmt: skip


def opened(tmp_path, html):
    """The page's DOM after it was opened, and what the browser's console said."""
    file = tmp_path / "report.html"
    file.write_text(html, encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--enable-logging=stderr",
            "--v=0",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def tags(dom):
    """Every element of a DOM, with its attributes."""
    found = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            found.append((tag, dict(attrs)))

    Reader().feed(dom)
    return found


def title(dom):
    return re.search("<title>(.*?)</title>", dom)[1]


def test_the_page_opens_without_a_word_on_the_console(tmp_path):
    dom, console = opened(tmp_path, render_html(night("zoo")))
    assert console == []
    assert title(dom) == "prunefleet: zoo, run zoo"
    assert dom.count('role="img"') >= 10
    assert (
        "<h1>2 model versions under 1 recipe: 1&nbsp;blocked and 1&nbsp;passed. 1 more could not be planned.</h1>"
        in dom
    )


def test_the_console_is_where_a_broken_policy_would_be_told(tmp_path):
    """Without this, silence on the console would prove nothing."""
    html = render_html(night("zoo")).replace(
        "</main>", "<script>document.title='pwned'</script><b style='color:red'></b></main>"
    )
    dom, console = opened(tmp_path, html)
    assert title(dom) == "prunefleet: zoo, run zoo"
    told = " ".join(console)
    assert "script" in told
    assert "style" in told


def test_a_changed_style_would_be_refused(tmp_path):
    html = render_html(night("zoo")).replace("<style>", "<style>body{background:url(http://127.0.0.1:9/x)}")
    _, console = opened(tmp_path, html)
    assert any("style-src" in line for line in console)


def test_hostile_names_run_nothing_load_nothing_and_make_no_element(tmp_path):
    plain_page, _ = opened(tmp_path, render_html(night("zoo")))
    page, console = opened(tmp_path, render_html(night(" ".join(PAYLOADS))))
    assert console == []
    assert title(page).startswith("prunefleet: &lt;script&gt;")
    harmless, suspect = tags(plain_page), tags(page)
    assert {tag for tag, _ in suspect} == {tag for tag, _ in harmless}
    assert {key for _, attributes in suspect for key in attributes} <= {
        key for _, attributes in harmless for key in attributes
    }
    assert all(attributes.get("href", "#").startswith(("#", "data:,")) for _, attributes in suspect)


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_each_payload_alone_leaves_the_document_as_it_was(tmp_path, payload):
    dom, console = opened(tmp_path, render_html(night(payload)))
    assert console == []
    assert title(dom).startswith("prunefleet: ")
    assert "</footer>" in dom
