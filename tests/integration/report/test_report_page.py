"""The page of a report: inert, self-contained, readable by everyone, and whole whatever the night was like."""

from __future__ import annotations

import base64
import hashlib
import math
import random
import re
from dataclasses import fields, replace

import pytest
from cases.reports import CSS, Page, case, layer_rows, many, night, sensitivity_rows

from orchestrator.reports.report import (
    MOST_REFUSED,
    MOST_ROWS,
    MOST_SECTIONS,
    ReportData,
    render_html,
    render_markdown,
)

HOSTILE = [
    "<script>document.title='pwned'</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></title></svg><script>1</script>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "`code` | pipe | **bold** [a](http://evil.example) <b>",
    "\u202egnp.exe\u202c \u200bzero\x00\x1b[31m",
    "x" * 10_000,
    "line\nbreak\r\n# heading",
    "a\u0300" + "\u0301" * 3000,
    "\ud800 lone",
]


def hostile(data, name):
    """Every text column that comes from outside says `name`."""
    keep = {
        "unit_key",
        "run_id",
        "units",
        "verdict",
        "gate",
        "metric",
        "state",
        "class",
        "artifact_digest",
        "digest",
        "outcome",
    }

    def spoiled(row):
        return {k: name if isinstance(v, str) and k not in keep else v for k, v in row.items()}

    changes = {}
    for field in fields(ReportData):
        rows = getattr(data, field.name)
        changes[field.name] = spoiled(rows) if field.name == "run" else [spoiled(row) for row in rows]
    slices = [{**row, "slice": "all" if i == 0 else name} for i, row in enumerate(data.evaluations)]
    return replace(
        data,
        **{
            **changes,
            "evaluations": [{**s, **{k: v for k, v in spoiled(s).items() if k != "slice"}} for s in slices],
        },
    )


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_are_inert_and_leave_the_page_whole(name):
    small = night(models=1, recipes=1, blocks=1)
    html = render_html(hostile(small, name))
    parsed = Page(html)
    assert not {tag for tag, _ in parsed.tags} & {"img", "iframe"}
    assert [tag for tag, _ in parsed.tags].count("script") == 1
    assert not [key for _, attrs in parsed.tags for key in attrs if key.startswith("on")]
    assert all(attrs.get("href", "#").startswith(("#", "data:,")) for _, attrs in parsed.tags)
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069\u200b\ud800-\udfff]", html)
    assert len(html) < len(render_html(small)) + 400_000
    html.encode()


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_stay_in_code_spans_of_the_summary(name):
    text = render_markdown(hostile(night(models=1, recipes=1, blocks=1), name))
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text)
    for mark in ("<script", "](http", "**bold", "onerror", "# heading", "evil", "\x1b", "\u202e"):
        assert mark not in outside, mark
    tables = [line for line in text.splitlines() if line.startswith("|")]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in tables}
    assert widths <= {5, 6, 13}
    text.encode()


def digest_of(text):
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_the_policy_allows_exactly_the_style_and_the_script_of_the_page(page):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    style = re.search("<style>(.*?)</style>", page, re.DOTALL)[1]
    script = re.search("<script>(.*?)</script>", page, re.DOTALL)[1]
    assert policy.startswith("default-src 'none'; ")
    assert f"style-src 'sha256-{digest_of(style)}';" in policy
    assert f"script-src 'sha256-{digest_of(script)}';" in policy
    assert "require-trusted-types-for 'script'; trusted-types 'none'" in policy
    assert "unsafe" not in policy


def test_the_page_refers_to_nothing_outside(page):
    assert not re.search(r'(src|href)="(?!#|data:,)', page)
    assert "url(" not in page
    assert "@import" not in page
    assert not re.search(r"<[^>]* style=", page)


def test_ids_are_unique_and_every_anchor_leads_somewhere(page):
    parsed = Page(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert set(parsed.anchors) <= set(parsed.ids)
    assert parsed.anchors


def test_every_drawing_has_a_name_and_every_table_a_caption(page):
    parsed = Page(page)
    drawings = page.count('role="img"')
    assert drawings > 10
    assert len(re.findall(r'<svg [^>]*role="img"[^>]*><title>[^<]+</title>', page)) == drawings
    count = sum(tag == "table" for tag, _ in parsed.tags)
    assert count == sum(tag == "caption" for tag, _ in parsed.tags) > 2


def test_every_verdict_has_a_sign_besides_its_colour(page):
    chips = re.findall(r'<span class="chip (\w+)" data-sign="([^"]+)">', page)
    assert len({sign for _, sign in chips}) == len({status for status, _ in chips}) > 3


def test_the_style_sheet_knows_every_class_of_the_page(page):
    used = {name for names in re.findall(r'class="([^"]*)"', page) for name in names.split()}
    known = set(re.findall(r"\.([a-z][a-z0-9]*)", CSS))
    assert used - known <= {"what", "model", "none", "all", "value", "cases"}


def scheme(dark):
    light, _, rest = CSS.partition("@media screen and (prefers-color-scheme: dark)")
    colours = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", light))
    return (
        colours | dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", rest.partition("\n}\n")[0]))
        if dark
        else colours
    )


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one, two):
    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_and_lines_have_enough_contrast_in_light_and_dark(dark):
    colours = scheme(dark)
    for ground in ("page", "surface"):
        for ink in ("ink", "soft", "link", "pass", "block", "inconclusive", "failed", "waiting", "measured"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for step in range(6):
        assert contrast(colours[f"depth{step}"], colours["surface"]) >= 3, step
    for step in range(8):
        ink = colours["on-low" if step < 5 else "on-high"]
        assert contrast(ink, colours[f"heat{step}"]) >= 4.5, step


@pytest.mark.parametrize("dark", [False, True])
def test_the_steps_of_the_map_differ_in_lightness_in_one_direction(dark):
    steps = [luminance(scheme(dark)[f"heat{step}"]) for step in range(8)]
    assert steps == sorted(steps, reverse=not dark)


def test_a_thousand_models_are_all_in_the_table_and_the_urgent_ones_in_detail(four):
    data = many(four, 250)
    html = render_html(data)
    assert html.count("<tr data-status=") == len(data.chains) == 3000
    assert html.count('<details class="model"') == MOST_SECTIONS
    assert f"The {MOST_SECTIONS} most urgent of 1,000 model versions are shown in detail" in html
    assert f"{3000 - MOST_ROWS:,} further rows" in html
    assert re.search(r"And [\d,]+ more, in the table below", html)
    assert html.split('id="refused"')[1].split("</section>")[0].count("<li>") == MOST_REFUSED
    assert len(html) < 6_000_000
    assert len(render_markdown(data)) < 20_000


def test_labels_of_the_scatter_plot_do_not_overlap(four):
    html = render_html(many(four, 20))
    chart = html.split('id="scatter"')[1].split("</section>")[0]
    boxes = [
        (float(x), float(y), float(x) + 0.6 * 11 * len(name), float(y) - 12)
        for x, y, name in re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="name">([^<]*)</text>', chart)
    ]
    assert boxes
    for i, (left, bottom, right, top) in enumerate(boxes):
        for other_left, other_bottom, other_right, other_top in boxes[:i]:
            assert right <= other_left or other_right <= left or bottom <= other_top or other_bottom <= top
    assert re.search(r"\d+ of \d+ marks are named", chart)


def test_a_model_of_a_thousand_layers_shows_the_most_sensitive_and_says_so():
    rng = random.Random(1)
    layers = [f"model.layers.{i}.mlp.up_proj" for i in range(1000)]
    base = {"unit_key": "k"}
    data = case(
        sensitivity=sensitivity_rows(rng, base, layers, "wanda", "unstructured"),
        layers=layer_rows(rng, base, layers, 0.5, even=False),
    )
    html = render_html(data)
    assert "40 of 1,000 layers are shown: the most sensitive." in html
    assert "60 of 1,000 layers are drawn: the most sensitive." in html
    assert "40 of 1000 layers are shown: those furthest from the mean." in html
    assert len(html) < 600_000


@pytest.mark.parametrize("number", [None, math.nan, math.inf, -math.inf, 0.0, 1e300, -1e-300])
def test_numbers_that_are_none_do_not_break_the_page(number):
    evaluation = {
        "slice": "all",
        "samples": 5,
        **dict.fromkeys(("dense_value", "value", "delta", "ci_low", "ci_high", "kl_divergence"), number),
    }
    rows = [evaluation, {**evaluation, "slice": "topic=a"}]
    layer = {"layer": "a.b", "amount": 0.5, "delta": number, "stderr": number}
    verdict = {
        "verdict": "block",
        "gate": "max_drop",
        "slice": "all",
        "observed": number,
        "limit": number,
        "p_value": None,
    }
    artifact = {
        "digest": "a",
        "dense_bytes": 10,
        "bytes": 10,
        "dense_parameters": 10,
        "nonzero_parameters": 5,
    }
    for metric in ("accuracy", "perplexity"):
        data = case(
            verdict="block",
            metric=metric,
            evaluations=rows,
            verdicts=[verdict],
            artifacts=[artifact],
            sensitivity=[layer],
        )
        html = render_html(data)
        Page(html)
        assert not re.search(r'="[^"]*\b(nan|inf)\b', html)
        render_markdown(data)


def test_the_same_rows_in_any_order_make_the_same_page(four, page):
    rng = random.Random(5)
    shuffled = {}
    for name in ("chains", "sensitivity", "layers", "artifacts", "evaluations", "verdicts", "units"):
        shuffled[name] = list(getattr(four, name))
        rng.shuffle(shuffled[name])
    assert render_html(replace(four, **shuffled)) == page
