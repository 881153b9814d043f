// The table of a batch: sorted, filtered, and drawn a thousand rows at a time.

const { rows, scored_with } = pageData();
const CHUNK = 1000;

const fixed = (digits) => (value) => (value === null ? "" : value.toFixed(digits));
const whole = (value) => (value === null ? "" : value.toLocaleString("en"));

// Key in a row, heading, text of a value, and whether the first click sorts the largest to the top.
const COLUMNS = [
  ["video", "Video", String, false],
  ["status", "Status", String, false],
  ["findings", "Findings", whole, true],
  ["found_s", "Time in findings", (value) => (value ? clock(value) : ""), true],
  ["peak_score", "Peak score", fixed(3), true],
  ["duration_s", "Length", (value) => (value === null ? "" : clock(value)), true],
  ["frames", "Frames scored", whole, true],
  ["corrupt", "Corrupt", whole, true],
  ["lost_s", "Lost", (value) => (value ? `${value.toFixed(1)} s` : ""), true],
  ["reason", "Not scored, and why", String, false],
];
const NUMERIC = new Set(["findings", "found_s", "peak_score", "duration_s", "frames", "corrupt", "lost_s"]);

const SHOWN = {
  "": () => true,
  found: (row) => row.findings > 0,
  clear: (row) => row.status !== "failed" && row.findings === 0,
  incomplete: (row) => row.status === "incomplete",
  failed: (row) => row.status === "failed",
};

let sorting = null;
let limit = CHUNK;

/** Rows that the filter lets through, in order; nothing known sorts to the end either way. */
function chosen() {
  const words = byId("filter").value.toLowerCase().split(/\s+/);
  const shows = SHOWN[byId("status").value];
  const matching = rows.filter((row) => {
    const text = `${row.video} ${row.folder} ${row.reason}`.toLowerCase();
    return shows(row) && words.every((word) => text.includes(word));
  });
  if (sorting === null) {
    return matching;
  }
  const { key, descending } = sorting;
  const sign = descending ? -1 : 1;
  return matching.sort((a, b) => {
    if (a[key] === null || b[key] === null) {
      return (a[key] === null) - (b[key] === null);
    }
    return sign * (NUMERIC.has(key) ? a[key] - b[key] : a[key].localeCompare(b[key], "en", { numeric: true }));
  });
}

function cell(row, [key, , text]) {
  const shown = text(row[key]);
  if (key === "video") {
    const name = row.href === null ? shown : html("a", { href: row.href }, shown);
    return html("th", { scope: "row" }, name);
  }
  return html("td", { class: NUMERIC.has(key) ? "number" : key }, shown);
}

function draw() {
  const matching = chosen();
  const drawn = matching.slice(0, limit);
  byId("rows").replaceChildren(
    ...drawn.map((row) =>
      html("tr", { "data-status": row.status, "data-found": row.findings > 0 }, ...COLUMNS.map((column) => cell(row, column))),
    ),
  );
  byId("shown").textContent = matching.length === rows.length ? "" : `${matching.length} of ${rows.length} shown`;
  byId("more").hidden = drawn.length === matching.length;
  byId("more").textContent = `Show more (${matching.length - drawn.length} left)`;
}

function sortBy(key, descendingFirst) {
  const again = sorting?.key === key;
  sorting = { key, descending: again ? !sorting.descending : descendingFirst };
  for (const heading of byId("headings").children) {
    const order = sorting.descending ? "descending" : "ascending";
    heading.setAttribute("aria-sort", heading.dataset.key === key ? order : "none");
  }
  draw();
}

function showHeadings() {
  byId("headings").append(
    ...COLUMNS.map(([key, name, , descendingFirst]) => {
      const button = html("button", { type: "button" }, name);
      button.addEventListener("click", () => sortBy(key, descendingFirst));
      return html("th", { scope: "col", "data-key": key, class: NUMERIC.has(key) ? "number" : null }, button);
    }),
  );
}

function showTotals() {
  const scored = rows.filter((row) => row.status !== "failed");
  const failed = rows.length - scored.length;
  const incomplete = scored.filter((row) => row.status === "incomplete").length;
  const sum = (key) => scored.reduce((total, row) => total + row[key], 0);
  fillFacts(byId("totals"), [
    ["Videos", whole(rows.length)],
    ["Scored from start to end", whole(scored.length - incomplete)],
    ["Incomplete", whole(incomplete)],
    ["Failed", whole(failed)],
    ["With findings", whole(scored.filter((row) => row.findings > 0).length)],
    ["Findings", whole(sum("findings"))],
    ["Length scored", clock(sum("duration_s"))],
    ["Time in findings", clock(sum("found_s"))],
  ]);
  byId("scored-with").textContent = scored_with.join("; ");
  const notices = [];
  if (failed) {
    notices.push(`${count(failed, "video")} could not be scored: nothing is known of what they show.`);
  }
  if (incomplete) {
    notices.push(`${count(incomplete, "video")} ${incomplete === 1 ? "was" : "were"} scored in part: look at the rest yourself.`);
  }
  byId("notices").append(...notices.map((text) => html("p", { class: "notice" }, text)));
}

function redraw() {
  limit = CHUNK;
  draw();
}

showHeadings();
showTotals();
byId("filter").addEventListener("input", redraw);
byId("status").addEventListener("change", redraw);
byId("more").addEventListener("click", () => {
  limit += CHUNK;
  draw();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !isTyping(event.target)) {
    event.preventDefault();
    byId("filter").focus();
  }
});
draw();
