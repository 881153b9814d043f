// One finding at large: its peak frame with or without evidence, what is known of it, and the decision.

/** Whether a box around evidence takes in nearly all of the picture, and so points nowhere. */
const isEverywhere = (box) => box && box.width * box.height > 0.9 * box.picture_width * box.picture_height;

class Viewer {
  constructor(report, review) {
    this.report = report;
    this.review = review;
    this.names = new Map(report.classes);
    this.evidence = true;
    this.finding = null;
    byId("classes").append(...report.classes.map(([code, name]) => html("option", { value: code }, name)));
    byId("picture").addEventListener("error", () => {
      byId("caption").textContent = "The picture is not beside this page: keep the folder together.";
    });
    byId("picture").addEventListener("load", () => this.drawBox());
    this.listen();
  }

  listen() {
    byId("accept").addEventListener("click", () => this.decide({ decision: "accepted" }));
    byId("reject").addEventListener("click", () => this.decide({ decision: "rejected" }));
    byId("undo").addEventListener("click", () => this.decide({ decision: "unreviewed" }));
    byId("code").addEventListener("input", () => this.decide({ code: byId("code").value.trim().toUpperCase() }));
    byId("remark").addEventListener("input", () => this.decide({ remark: byId("remark").value }));
    byId("decision").addEventListener("submit", (event) => {
      event.preventDefault();
      document.activeElement.blur();
    });
  }

  decide(change) {
    if (this.finding !== null) {
      this.review.decide(this.finding.number, change);
    }
  }

  show(finding) {
    this.finding = finding;
    byId("decision-heading").textContent = `Finding ${finding.number} of ${this.report.findings.length}`;
    fillFacts(byId("details"), this.details(finding));
    const { code, remark } = this.review.of(finding.number);
    byId("code").value = code;
    byId("remark").value = remark;
    this.showPicture();
    this.mark();
  }

  details(finding) {
    const facts = [
      ["Interval", `${clock(finding.start_s)} to ${clock(finding.end_s)}`],
      ["Peak", `${clock(finding.peak_s)} (${finding.peak_s.toFixed(2)} s)`],
      ["Score", `${finding.score.toFixed(3)}, mean ${finding.mean_score.toFixed(3)}`],
      ["Frames", String(finding.frames)],
    ];
    if (finding.distance_m !== null) {
      facts.push(["Distance", `${metres(finding.distance_m)} (${finding.distance_source})`]);
    }
    if (finding.clock !== null && finding.clock !== undefined) {
      facts.push(["Position", `${finding.clock} o'clock, estimated`]);
    }
    return facts;
  }

  showPicture() {
    const { finding } = this;
    const bare = !this.evidence && finding.bare_photo !== null;
    const what = bare ? "without evidence" : "under its evidence";
    const all = !bare && isEverywhere(finding.box) ? ", which is all over the picture and so does not say where" : "";
    const key = finding.bare_photo === null ? "" : `; e shows it ${bare ? "with" : "without"}`;
    byId("caption").textContent = `Peak frame ${what}${all}${key}`;
    byId("picture").setAttribute("alt", `Peak frame of finding ${finding.number} ${what}`);
    byId("picture").setAttribute("src", bare ? finding.bare_photo : finding.photo);
  }

  /** Frames the evidence. Its box is in the video's own pixels, the picture in square ones of another size. */
  drawBox() {
    const { naturalWidth, naturalHeight } = byId("picture");
    const box = this.evidence && !isEverywhere(this.finding?.box) ? this.finding?.box : null;
    byId("box").setAttribute("viewBox", `0 0 ${naturalWidth} ${naturalHeight}`);
    byId("box").replaceChildren();
    if (box) {
      const across = naturalWidth / box.picture_width;
      const down = naturalHeight / box.picture_height;
      const place = { x: box.x * across, y: box.y * down, width: box.width * across, height: box.height * down };
      byId("box").append(svg("rect", place));
    }
  }

  toggleEvidence() {
    this.evidence = !this.evidence;
    if (this.finding !== null) {
      this.showPicture();
      this.drawBox();
    }
  }

  mark() {
    if (this.finding === null) {
      return;
    }
    const { decision, code } = this.review.of(this.finding.number);
    byId("accept").setAttribute("aria-pressed", String(decision === "accepted"));
    byId("reject").setAttribute("aria-pressed", String(decision === "rejected"));
    byId("undo").disabled = decision === "unreviewed";
    if (decision !== "accepted" && document.activeElement !== byId("code")) {
      byId("code").value = "";
    }
    byId("code-name").textContent = code ? this.names.get(code) ?? "not one of Sewer-ML's classes" : "optional; a code accepts";
  }
}
