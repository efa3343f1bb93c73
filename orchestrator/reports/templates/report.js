"use strict";
// Sorts and filters the table of cases, and reads the marks of drawings out to a pointer and to the arrow keys.
(() => {
  const LEAST = 100; // rows shown before one asks for more
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const at = (id) => document.getElementById(id);

  function table() {
    const tables = all("table.cases");
    if (!tables.length) return;
    const body = tables[0].tBodies[0];
    const rows = tables.flatMap((one) => [...one.tBodies[0].rows]);
    const texts = new Map(rows.map((row) => [row, row.cells[1].textContent.toLowerCase()]));
    const inputs = ["find", "verdict", "recipe", "best"].map(at);
    const [find, verdict, recipe, best] = inputs;
    const more = document.createElement("button");
    more.type = "button";
    let order = rows;
    let most = LEAST;
    body.append(...rows);
    tables.slice(1).forEach((one) => one.closest("details").remove());
    tables[0].closest(".scroll").after(more);

    const isWanted = (row) =>
      find.value.toLowerCase().split(/\s+/).every((word) => texts.get(row).includes(word)) &&
      (!verdict.value || row.dataset.status === verdict.value) &&
      (!recipe.value || row.dataset.recipe === recipe.value) &&
      (!best.checked || "best" in row.dataset);

    function show() {
      const wanted = order.filter(isWanted);
      const shown = new Set(wanted.slice(0, most));
      rows.forEach((row) => (row.hidden = !shown.has(row)));
      at("shown").textContent = `${wanted.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
      more.hidden = wanted.length <= most;
      more.textContent = `Show all ${wanted.length.toLocaleString("en")}`;
    }

    function sort(column, heading) {
      const isDown = heading.getAttribute("aria-sort") === "ascending";
      const key = (row) => {
        const value = row.cells[column].dataset.v;
        return column === 1 ? texts.get(row) : value === undefined ? null : Number(value);
      };
      const keys = new Map(rows.map((row) => [row, key(row)]));
      const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
      order = [...rows].sort((a, b) => {
        const [one, other] = [keys.get(a), keys.get(b)];
        if (one === null || other === null) return (one === null) - (other === null); // unknown is last in either order
        return (isDown ? -1 : 1) * compare(one, other);
      });
      all("th", tables[0].tHead).forEach((each) => each.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", isDown ? "descending" : "ascending");
      body.append(...order);
      show();
    }

    all("th", tables[0].tHead).forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = heading.textContent;
      heading.replaceChildren(button);
      button.addEventListener("click", () => sort(column, heading));
    });
    inputs.forEach((input) => input.addEventListener("input", () => { most = LEAST; show(); }));
    more.addEventListener("click", () => { most = Infinity; show(); });
    at("tools").hidden = false;
    show();
  }

  function drawings() {
    const tip = at("tip");
    const marksOf = (chart) => all("[aria-label]", chart);
    let lit = null;

    // A mark's title becomes its label, or the browser would show it a second time.
    function prepare(chart) {
      if (chart.dataset.ready) return;
      chart.dataset.ready = "yes";
      all("title", chart).filter((title) => title.parentNode !== chart).forEach((title) => {
        title.parentNode.setAttribute("aria-label", title.textContent);
        title.remove();
      });
    }

    function tell(mark) {
      if (mark === lit) return;
      lit?.classList.remove("lit");
      lit = mark;
      tip.hidden = !mark;
      if (!mark) return;
      mark.classList.add("lit");
      tip.textContent = mark.getAttribute("aria-label");
      const box = mark.getBoundingClientRect();
      const left = Math.min(box.left + box.width / 2 + 8, innerWidth - tip.offsetWidth - 8);
      const above = box.top - tip.offsetHeight - 8;
      tip.style.left = `${Math.max(8, left)}px`;
      tip.style.top = `${above > 0 ? above : box.bottom + 8}px`;
    }

    // Lines are thin: what is a few pixels away is meant as well.
    function near(x, y) {
      for (const [dx, dy] of [[0, 0], [0, 4], [0, -4], [4, 0], [-4, 0]]) {
        const mark = document.elementFromPoint(x + dx, y + dy)?.closest(".chart [aria-label]");
        if (mark) return mark;
      }
      return null;
    }

    const centre = (mark) => {
      const box = mark.getBoundingClientRect();
      return [box.left + box.width / 2, box.top + box.height / 2];
    };

    function next(chart, key) {
      const marks = marksOf(chart);
      if (key === "Home" || !lit || !chart.contains(lit)) return marks[0];
      if (key === "End") return marks[marks.length - 1];
      const [right, down] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[key];
      const [x, y] = centre(lit);
      let found = lit;
      let least = Infinity;
      for (const mark of marks) {
        const [dx, dy] = [centre(mark)[0] - x, centre(mark)[1] - y];
        const along = dx * right + dy * down;
        const distance = along + 3 * Math.abs(dx * down + dy * right);
        if (mark !== lit && along > 0.5 && distance < least) [found, least] = [mark, distance];
      }
      return found;
    }

    for (const chart of all("svg.chart")) {
      if (!chart.querySelector(":scope > * title")) continue;
      chart.tabIndex = 0;
      chart.setAttribute("aria-description", "The arrow keys read its marks.");
      chart.addEventListener("pointerenter", () => prepare(chart));
      chart.addEventListener("pointermove", (event) => tell(near(event.clientX, event.clientY)));
      chart.addEventListener("pointerleave", () => tell(null));
      chart.addEventListener("focus", () => prepare(chart));
      chart.addEventListener("blur", () => tell(null));
      chart.addEventListener("keydown", (event) => {
        if (event.key === "Escape") return tell(null);
        if (!/^(Arrow(Left|Right|Up|Down)|Home|End)$/.test(event.key)) return;
        event.preventDefault();
        prepare(chart);
        tell(next(chart, event.key));
      });
    }
  }

  table();
  drawings();
})();
