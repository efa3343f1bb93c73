"""The report in a real browser: its style applies, its policy is kept, and nothing in a name is ever run."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from cases.browser import CHROMIUM, chromium
from cases.reports import many
from cases.reports import night as reports_night

from orchestrator.reports.report import ReportData, render_html

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


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture
def show(browser, tmp_path):
    """Opens a page as a file."""

    def opened(html, **look):
        file = tmp_path / "report.html"
        file.write_text(html, encoding="utf-8")
        return browser.page(file.as_uri(), **look)

    return opened


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


@pytest.mark.parametrize("look", [{}, {"dark": True}, {"width": 360}, {"script": False}], ids=str)
def test_the_page_opens_without_a_word_on_the_console(show, look):
    page = show(render_html(night("zoo")), **look)
    dom = page.dom
    assert page.console == []
    assert title(dom) == "prunefleet: zoo, run zoo"
    assert dom.count('role="img"') >= 10
    assert (
        "<h1>2 model versions under 1 recipe: 1&nbsp;blocked and 1&nbsp;passed. 1 more could not be planned.</h1>"
        in dom
    )


def test_the_console_is_where_a_broken_policy_would_be_told(show):
    """Without this, silence on the console would prove nothing."""
    html = render_html(night("zoo")).replace(
        "</main>", "<script>document.title='pwned'</script><b style='color:red'></b></main>"
    )
    page = show(html)
    assert title(page.dom) == "prunefleet: zoo, run zoo"
    told = " ".join(page.console)
    assert "script" in told
    assert "style" in told


@pytest.mark.parametrize(
    ("tag", "addition"), [("style", "body{background:red}"), ("script", "document.title=1;")]
)
def test_a_changed_style_or_script_would_be_refused(show, tag, addition):
    page = show(render_html(night("zoo")).replace(f"<{tag}>", f"<{tag}>{addition}"))
    assert any(f"{tag}-src" in line for line in page.console)
    assert title(page.dom) == "prunefleet: zoo, run zoo"


def test_markup_cannot_be_made_of_text_even_by_the_page_itself(show):
    page = show(render_html(night("zoo")))
    page.tell(
        "try { document.body.innerHTML = '<b>pwned</b>' } catch { document.body.dataset.refused = 'yes' }"
    )
    assert page.tell("document.body.dataset.refused") == "yes"


def test_hostile_names_run_nothing_load_nothing_and_make_no_element(show):
    plain_page = show(render_html(night("zoo"))).dom
    page = show(render_html(night(" ".join(PAYLOADS))))
    suspect_page = page.dom
    assert page.console == []
    assert title(suspect_page).startswith("prunefleet: &lt;script&gt;")
    harmless, suspect = tags(plain_page), tags(suspect_page)
    assert {tag for tag, _ in suspect} == {tag for tag, _ in harmless}
    assert {key for _, attributes in suspect for key in attributes} <= {
        key for _, attributes in harmless for key in attributes
    }
    assert all(attributes.get("href", "#").startswith(("#", "data:,")) for _, attributes in suspect)


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_each_payload_alone_leaves_the_document_as_it_was_also_when_it_is_read_out(show, payload):
    page = show(render_html(night(payload)))
    page.tell("document.querySelector('details.model').open = true")
    page.tell("document.querySelector('svg:has(.cell)').focus()")
    page.press("Home")
    assert page.tell("document.getElementById('tip').textContent").endswith(": 0.3000")
    dom = page.dom
    assert page.console == []
    assert title(dom).startswith("prunefleet: ")
    assert "</footer>" in dom


# --- by hand -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many_cases():
    """Twelve cases of four models under three recipes, ten times over: more than are shown at first."""
    return render_html(many(reports_night(blocks=1), 10))


SHOWN = "[...document.querySelectorAll('table.cases tbody tr')].filter(row => !row.hidden)"


def names(page):
    """The rows in view: model and recipe."""
    return page.tell(f"{SHOWN}.map(row => row.cells[1].textContent.replace('★', '').trim())")


def test_without_a_script_every_row_is_there_and_nothing_waits_for_one(show, many_cases):
    page = show(many_cases, script=False)
    assert len(names(page)) == 120
    assert page.tell("document.getElementById('tools').hidden")
    assert page.tell("document.querySelectorAll('th button, svg[tabindex]').length") == 0


def test_typing_filters_by_model_and_recipe(show, many_cases):
    page = show(many_cases)
    assert len(names(page)) == 100
    page.tell("document.getElementById('find').focus()")
    page.press("ASSISTANT-B-3 half")
    assert names(page) == ["zoo/assistant-b-3@1wanda-half"]
    assert page.tell("document.getElementById('shown').textContent") == "1 of 120 rows"
    page.press(" nothing")
    assert names(page) == []


def choose(page, control, value):
    """What a click on an option does."""
    page.tell(
        f"(c => {{ c.value = {value!r}; c.dispatchEvent(new Event('input')) }})(document.getElementById({control!r}))"
    )


def test_choosing_filters_by_verdict_and_recipe_together(show, many_cases):
    page = show(many_cases)
    choose(page, "verdict", "failed")
    assert names(page) == [f"zoo/assistant-d-{i}@1magnitude-70" for i in range(10)]
    choose(page, "recipe", page.tell("document.querySelector('#recipe option:last-child').value"))
    assert names(page) == []


def test_the_best_trade_offs_alone_are_those_with_a_star(show, many_cases):
    page = show(many_cases)
    page.tell("document.getElementById('best').focus()")
    page.tell("document.getElementById('best').click()")
    assert 0 < len(names(page)) < 100
    assert page.tell(f"{SHOWN}.every(row => row.querySelector('.star'))")


def test_the_keyboard_sorts_by_a_column_and_again_the_other_way_with_the_unknown_last(show, many_cases):
    page = show(many_cases)
    page.tell(
        "[...document.querySelectorAll('th button')].find(b => b.textContent.startsWith('Change')).focus()"
    )
    page.press("Enter")
    assert page.tell("document.activeElement.parentNode.getAttribute('aria-sort')") == "ascending"
    values = f"{SHOWN}.map(row => row.cells[3].dataset.v).filter(v => v !== undefined).map(Number)"
    rising = page.tell(values)
    assert rising == sorted(rising)
    page.press("Enter")
    falling = page.tell(values)
    assert falling == sorted(falling, reverse=True)
    page.tell("document.querySelector('.scroll + button').click()")
    known = page.tell(f"{SHOWN}.map(row => row.cells[3].dataset.v !== undefined)")
    assert len(known) == 120
    assert known == sorted(known, reverse=True)


def test_arrow_keys_walk_over_a_map_and_say_each_value(show):
    page = show(render_html(night("zoo")))
    page.tell("document.querySelectorAll('details.model').forEach(one => { one.open = true })")
    page.tell("document.querySelector('svg:has(.cell)').focus()")
    told = []
    for key in ("Home", "ArrowRight", "ArrowDown", "ArrowLeft", "Escape"):
        page.press(key)
        told.append(page.tell("(tip => tip.hidden ? '' : tip.textContent)(document.getElementById('tip'))"))
    amounts = [re.search(r" at (\d+) %", one)[1] for one in told[:4]]
    assert amounts == ["30", "60", "60", "30"]
    assert told[0] != told[3]
    assert told[4] == ""
    assert page.console == []


def test_every_control_has_a_name_and_can_be_reached_by_tab(show, many_cases):
    page = show(many_cases)
    reached = set()
    page.tell("document.querySelector('.lead').tabIndex = -1; document.querySelector('#all').tabIndex = -1")
    page.tell("document.querySelector('#all').focus()")
    for _ in range(12):
        page.press("Tab")
        reached.add(page.tell("document.activeElement.id || document.activeElement.localName"))
    assert {"find", "verdict", "recipe", "best", "button"} <= reached
    nodes = page.ask("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "searchbox", "combobox", "checkbox", "link", "image", "table"}
    found = [node for node in nodes if node.get("role", {}).get("value") in roles and not node["ignored"]]
    assert roles - {"link", "image"} <= {node["role"]["value"] for node in found}
    assert [node for node in found if not node.get("name", {}).get("value")] == []


def test_nothing_is_wider_than_a_narrow_screen_but_what_scrolls(show, many_cases):
    page = show(many_cases, width=360)
    assert page.tell("document.documentElement.scrollWidth") == 360


def test_on_paper_the_details_are_open_the_tools_gone_and_the_ground_is_light(show):
    html = render_html(night("zoo"))
    page = show(html, dark=True)
    page.ask("Emulation.setEmulatedMedia", media="print")
    assert page.tell("getComputedStyle(document.getElementById('tools')).display") == "none"
    assert page.tell("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    inside = page.tell("document.querySelector('details.model h3').getBoundingClientRect().height")
    assert inside > 0
    assert page.printed().startswith(b"%PDF")


def test_hundreds_of_models_answer_a_key_at_once(show):
    page = show(render_html(many(reports_night(blocks=1), 80)))
    assert len(names(page)) == 100
    page.tell("document.getElementById('find').focus()")
    took = page.tell(
        "(start => { document.getElementById('find').value = 'b-4'; "
        "document.getElementById('find').dispatchEvent(new Event('input')); return performance.now() - start })"
        "(performance.now())"
    )
    assert len(names(page)) == 33
    assert took < 2_000
