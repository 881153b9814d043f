// The page of one video: puts the parts together and gives them keys.

const report = pageData();
const review = new Review(report);
const findings = report.findings;
let picked = null;

const viewer = new Viewer(report, review);
const list = new FindingsList(byId("findings"), report, pick);
const timeline = new Timeline(byId("timeline"), report, { onPick: pick, onHover: showReadout });

function pick(number) {
  const finding = findings.find((each) => each.number === number);
  if (finding === undefined) {
    return;
  }
  picked = number;
  viewer.show(finding);
  list.reveal(number);
  refresh();
}

/** The next or previous finding, staying at the ends. */
function step(by) {
  pick(Math.min(findings.length, Math.max(1, (picked ?? 0) + by)));
}

function nextUndecided() {
  const waiting = (each) => review.of(each.number).decision === "unreviewed";
  const next = findings.find((each) => each.number > picked && waiting(each)) ?? findings.find(waiting);
  if (next !== undefined) {
    pick(next.number);
  }
}

function refresh() {
  list.mark(picked, review);
  viewer.mark();
  timeline.mark(picked, (number) => review.of(number).decision);
  const progress = `${review.decided} of ${count(findings.length, "finding")} decided`;
  const kept = review.kept ? "kept in this browser" : "NOT kept in this browser: save before you close the page";
  showState(review.unsaved ? `${progress}; not saved to a file yet, ${kept}` : progress);
}

function showState(text, isProblem = false) {
  byId("state").textContent = text;
  byId("state").classList.toggle("problem", isProblem);
}

function save() {
  if (!review.reviewer) {
    showState("Enter the reviewer's name first", true);
    byId("reviewer").focus();
    return;
  }
  review.save();
}

async function openFile() {
  const [file] = byId("open-file").files;
  byId("open-file").value = "";
  if (file === undefined) {
    return;
  }
  try {
    const missing = review.open(await file.text());
    byId("reviewer").value = review.reviewer;
    pick(picked);
    if (missing > 0) {
      showState(`${count(missing, "decision")} of ${file.name} belong to findings that are not here`, true);
    }
  } catch (error) {
    showState(`${file.name}: ${error.message}`, true);
  }
}

function showReadout(frame) {
  if (frame === null) {
    byId("readout").textContent = "";
    return;
  }
  const { times_s, scores, distances_m } = report.frames;
  const distance = distances_m?.[frame] ?? null;
  const where = distance === null ? "" : ` · ${metres(distance)}`;
  byId("readout").textContent = `${clock(times_s[frame])}${where} · score ${scores[frame].toFixed(3)}`;
}

function toggleAxis() {
  if (report.frames.distances_m === null) {
    return;
  }
  timeline.setAxis(timeline.axis === "time" ? "distance" : "time");
  byId("axis-time").setAttribute("aria-pressed", String(timeline.axis === "time"));
  byId("axis-distance").setAttribute("aria-pressed", String(timeline.axis === "distance"));
}

const KEYS = {
  ArrowRight: () => step(1),
  n: () => step(1),
  ArrowLeft: () => step(-1),
  p: () => step(-1),
  j: nextUndecided,
  a: () => viewer.decide({ decision: "accepted" }),
  r: () => viewer.decide({ decision: "rejected" }),
  u: () => viewer.decide({ decision: "unreviewed" }),
  c: () => byId("code").focus(),
  m: () => byId("remark").focus(),
  e: () => viewer.toggleEvidence(),
  d: toggleAxis,
  s: save,
};

function onKey(event) {
  if (event.key === "Escape") {
    document.activeElement.blur();
    return;
  }
  const action = KEYS[event.key];
  if (action === undefined || isTyping(event.target) || event.ctrlKey || event.metaKey || event.altKey) {
    return;
  }
  event.preventDefault();
  action();
}

function showHead() {
  byId("title").textContent = report.video;
  byId("sha256").textContent = `SHA-256 ${report.video_sha256}`;
  fillFacts(byId("facts"), report.facts);
  const { enter, leave } = report.scoring;
  byId("legend").textContent = `a finding opens at ${enter.toFixed(3)} and closes below ${leave.toFixed(3)}`;
  byId("findings-heading").textContent = findings.length ? count(findings.length, "finding") : "No findings";
  byId("axis").hidden = report.frames.distances_m === null;
  const stretches = (spans) => spans.map(([a, b]) => `${clock(a)} to ${clock(b)}`).join(", ");
  const notices = [];
  if (report.unscored.length) {
    notices.push(`Not scored, so look at it yourself: ${stretches(report.unscored)}`);
  }
  if (report.lost.length) {
    const lost_s = report.lost.reduce((sum, [a, b]) => sum + b - a, 0);
    notices.push(`Lost with a decoder that crashed or hung, ${lost_s.toFixed(1)} s: ${stretches(report.lost)}`);
  }
  if (report.corrupt.length) {
    notices.push(`Corrupt pictures: ${stretches(report.corrupt)}`);
  }
  byId("notices").append(...notices.map((text) => html("p", { class: "notice" }, text)));
}

function listen() {
  byId("reviewer").value = review.reviewer;
  byId("reviewer").addEventListener("input", () => review.setReviewer(byId("reviewer").value));
  byId("save").addEventListener("click", save);
  byId("open").addEventListener("click", () => byId("open-file").click());
  byId("open-file").addEventListener("change", openFile);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("axis-time").addEventListener("click", () => timeline.axis !== "time" && toggleAxis());
  byId("axis-distance").addEventListener("click", () => timeline.axis === "time" && toggleAxis());
  document.addEventListener("keydown", onKey);
  window.addEventListener("beforeunload", (event) => {
    if (review.unsaved && !review.kept) {
      event.preventDefault();
    }
  });
  review.onChange(refresh);
}

showHead();
listen();
byId("work").classList.toggle("empty", findings.length === 0);
refresh();
if (findings.length) {
  pick(1);
}
