// Scores along time or distance, with the threshold, findings, and stretches that nothing is known of.

const PLOT = { height: 132, left: 34, right: 10, top: 18, bottom: 20 };
// More points than these are not visible: each column of pixels shows its lowest and highest score.
const COLUMNS = 1200;

class Timeline {
  constructor(place, report, { onPick, onHover }) {
    this.place = place;
    this.report = report;
    this.onPick = onPick;
    this.onHover = onHover;
    this.axis = "time";
    this.bands = new Map();
    new ResizeObserver(() => this.draw()).observe(place);
  }

  setAxis(axis) {
    this.axis = axis;
    this.draw();
  }

  draw() {
    this.width = Math.max(320, this.place.clientWidth);
    const { times_s, scores } = this.report.frames;
    this.positions = this.axis === "time" ? times_s : this.report.frames.distances_m;
    this.setRange();
    const points = this.points(scores);
    const drawing = svg(
      "svg",
      { viewBox: `0 0 ${this.width} ${PLOT.height}`, class: "plot", role: "img", "aria-label": this.describe() },
      ...this.unknownStretches(),
      ...this.findings(),
      ...this.grid(),
      svg("polyline", { class: "scores", points: points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ") }),
    );
    drawing.addEventListener("mousemove", (event) => this.hover(event));
    drawing.addEventListener("mouseleave", () => this.onHover(null));
    this.place.replaceChildren(drawing);
    this.drawing = drawing;
    this.mark();
  }

  describe() {
    const { findings, frames } = this.report;
    return `Scores of ${count(frames.scores.length, "frame")} along ${this.axis}, ${count(findings.length, "finding")}`;
  }

  setRange() {
    const known = this.positions.filter((each) => each !== null);
    this.from = this.axis === "time" ? 0 : known.reduce((a, b) => Math.min(a, b), Infinity);
    this.to = this.axis === "time" ? this.report.duration_s : known.reduce((a, b) => Math.max(a, b), -Infinity);
    if (!(this.to > this.from)) {
      this.to = this.from + 1;
    }
  }

  x(position) {
    const share = (position - this.from) / (this.to - this.from);
    return PLOT.left + Math.min(1, Math.max(0, share)) * (this.width - PLOT.left - PLOT.right);
  }

  y(score) {
    return PLOT.top + (1 - score) * (PLOT.height - PLOT.top - PLOT.bottom);
  }

  points(scores) {
    const all = [];
    scores.forEach((score, i) => {
      if (this.positions[i] !== null) {
        all.push([this.x(this.positions[i]), this.y(score)]);
      }
    });
    return all.length <= 2 * COLUMNS || this.axis !== "time" ? all : this.thinned(all);
  }

  thinned(points) {
    const columns = new Map();
    for (const point of points) {
      const column = Math.floor((point[0] / this.width) * COLUMNS);
      const seen = columns.get(column) ?? [point, point];
      columns.set(column, [point[1] < seen[0][1] ? point : seen[0], point[1] > seen[1][1] ? point : seen[1]]);
    }
    return [...columns.values()].flatMap((pair) => (pair[0][0] <= pair[1][0] ? pair : [pair[1], pair[0]]));
  }

  grid() {
    const { enter, leave } = this.report.scoring;
    const right = this.width - PLOT.right;
    const level = (score, name) =>
      svg("line", { class: name, x1: PLOT.left, x2: right, y1: this.y(score), y2: this.y(score) });
    const label = (score, text, name = "tick") =>
      svg("text", { class: name, x: PLOT.left - 5, y: this.y(score) + 3.5, "text-anchor": "end" }, text);
    return [
      level(0, "frame-line"),
      level(1, "frame-line"),
      level(leave, "leave-line"),
      level(enter, "enter-line"),
      label(0, "0"),
      label(1, "1"),
      label(enter, enter.toFixed(2), "tick threshold"),
      ...this.ticks(),
    ];
  }

  ticks() {
    const steps = this.axis === "time" ? [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600] : [0.1, 0.5, 1, 2, 5, 10, 20, 50];
    const room = (this.width - PLOT.left - PLOT.right) / 90;
    const step = steps.find((each) => (this.to - this.from) / each <= room) ?? (this.to - this.from) / room;
    const parts = [];
    for (let at = Math.ceil(this.from / step) * step; at <= this.to + 1e-9; at += step) {
      const x = this.x(at);
      const anchor = x > this.width - 40 ? "end" : x < PLOT.left + 20 ? "start" : "middle";
      parts.push(svg("line", { class: "frame-line", x1: x, x2: x, y1: this.y(0), y2: this.y(0) + 4 }));
      const text = this.axis === "time" ? clock(at) : `${Number(at.toFixed(2))} m`;
      parts.push(svg("text", { class: "tick", x, y: PLOT.height - 5, "text-anchor": anchor }, text));
    }
    return parts;
  }

  /** Where nothing was scored, or pictures were lost or corrupt; of those no distance is known. */
  unknownStretches() {
    if (this.axis !== "time") {
      return [];
    }
    const { unscored, lost, corrupt } = this.report;
    const rect = (from, to, name, title) =>
      svg("rect", { class: name, ...this.span(from, to), y: this.y(1), height: this.y(0) - this.y(1) }, svg("title", {}, title));
    return [
      ...unscored.map(([a, b]) => rect(a, b, "unscored", `not scored: ${clock(a)} to ${clock(b)}`)),
      ...lost.map(([a, b]) => rect(a, b, "lost", `lost with the decoder: ${clock(a)} to ${clock(b)}`)),
      ...corrupt.map(([a, b]) => rect(a, b, "corrupt", `corrupt pictures: ${clock(a)} to ${clock(b)}`)),
    ];
  }

  span(from, to) {
    const start = this.x(from);
    return { x: start, width: Math.max(3, this.x(to) - start) };
  }

  findings() {
    this.bands.clear();
    let labelled = -Infinity;
    return this.report.findings.flatMap((finding) => {
      const reach = this.reach(finding);
      if (reach === null) {
        return [];
      }
      const place = this.span(...reach);
      const middle = place.x + place.width / 2;
      const parts = [
        svg("rect", { class: "band", ...place, y: 1, height: this.y(0) - 1 }),
        svg("title", {}, `Finding ${finding.number}, score ${finding.score.toFixed(3)}`),
      ];
      const label = String(finding.number);
      if (middle - labelled > 8 + 8 * label.length) {
        parts.push(svg("text", { class: "number", x: middle, y: 13, "text-anchor": "middle" }, label));
        labelled = middle;
      }
      const band = svg("g", { class: "finding", "data-number": finding.number }, ...parts);
      band.addEventListener("click", () => this.onPick(finding.number));
      this.bands.set(finding.number, band);
      return [band];
    });
  }

  /** From where to where a finding reaches on the axis; null if no distance of it is known. */
  reach(finding) {
    if (this.axis === "time") {
      return [finding.start_s, finding.end_s];
    }
    const { times_s, distances_m } = this.report.frames;
    const inside = distances_m.filter((d, i) => d !== null && times_s[i] >= finding.start_s && times_s[i] < finding.end_s);
    return inside.length ? [Math.min(...inside), Math.max(...inside)] : null;
  }

  hover(event) {
    const scale = this.width / this.drawing.getBoundingClientRect().width;
    const x = (event.clientX - this.drawing.getBoundingClientRect().left) * scale;
    const share = (x - PLOT.left) / (this.width - PLOT.left - PLOT.right);
    const at = this.from + share * (this.to - this.from);
    let nearest = -1;
    this.positions.forEach((each, i) => {
      if (each !== null && (nearest < 0 || Math.abs(each - at) < Math.abs(this.positions[nearest] - at))) {
        nearest = i;
      }
    });
    this.onHover(nearest < 0 ? null : nearest);
  }

  /** Shows which finding is picked and what was decided about each. */
  mark(picked = this.picked, decisionOf = this.decisionOf) {
    this.picked = picked;
    this.decisionOf = decisionOf;
    for (const [number, band] of this.bands) {
      band.classList.toggle("picked", number === picked);
      band.dataset.decision = decisionOf ? decisionOf(number) : "unreviewed";
    }
  }
}
