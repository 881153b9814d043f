// A review: what a person decided about each finding. Kept in the browser at every change, saved as a file on demand.
// The file's schema, "pipeprobe-review/1", is described in serving/review_file.py, which reads it.

const REVIEW_SCHEMA = "pipeprobe-review/1";
const UNDECIDED = Object.freeze({ decision: "unreviewed", code: "", remark: "" });

class Review {
  /** Continues what this browser kept for the same findings. */
  constructor(report) {
    this.report = report;
    this.reviewer = "";
    this.decisions = new Map();
    this.unsaved = false;
    this.kept = true;
    this.listeners = [];
    this.key = `${REVIEW_SCHEMA}:${report.video_sha256}:${report.findings_id}`;
    this.recall();
  }

  onChange(listener) {
    this.listeners.push(listener);
  }

  of(number) {
    return this.decisions.get(number) ?? UNDECIDED;
  }

  get decided() {
    return this.report.findings.filter((each) => this.of(each.number).decision !== "unreviewed").length;
  }

  setReviewer(name) {
    this.reviewer = name.trim();
    this.changed();
  }

  /** A code is only for defects: giving one accepts, and anything but accepting takes it away. */
  decide(number, change) {
    const next = { ...this.of(number), ...change };
    if (change.code) {
      next.decision = "accepted";
    } else if (next.decision !== "accepted") {
      next.code = "";
    }
    this.decisions.set(number, next);
    this.changed();
  }

  changed() {
    this.unsaved = true;
    this.keep();
    this.listeners.forEach((listener) => listener());
  }

  /** Storage may be switched off, full or forbidden for files: then the page says so and warns before it closes. */
  keep() {
    try {
      const unsaved = this.unsaved;
      localStorage.setItem(this.key, JSON.stringify({ ...this.document(), unsaved }));
      localStorage.setItem(`${REVIEW_SCHEMA}:reviewer`, this.reviewer);
      this.kept = true;
    } catch {
      this.kept = false;
    }
  }

  recall() {
    try {
      this.reviewer = localStorage.getItem(`${REVIEW_SCHEMA}:reviewer`) ?? "";
      const kept = JSON.parse(localStorage.getItem(this.key) ?? "null");
      if (kept !== null) {
        this.take(kept);
        this.unsaved = kept.unsaved === true;
      }
    } catch {
      this.kept = false;
    }
  }

  /** Takes over a review that was saved to a file; throws an Error that says why it does not belong here. */
  open(text) {
    let saved = null;
    try {
      saved = JSON.parse(text);
    } catch {
      throw new Error("that is no review file");
    }
    if (saved?.schema !== REVIEW_SCHEMA || !Array.isArray(saved.findings)) {
      throw new Error("that is no review file");
    }
    if (saved.video_sha256 !== this.report.video_sha256) {
      throw new Error("that review is of another video");
    }
    const missing = this.take(saved);
    this.changed();
    return missing;
  }

  /** Matches decisions to findings by their intervals; returns how many belong to none. */
  take(saved) {
    this.reviewer = String(saved.reviewer ?? "") || this.reviewer;
    let missing = 0;
    for (const each of saved.findings) {
      const finding = this.report.findings.find(
        ({ start_s, end_s }) => start_s === each.start_s && end_s === each.end_s,
      );
      const known = ["accepted", "rejected", "unreviewed"].includes(each.decision);
      if (finding && known) {
        const { decision } = each;
        const code = String(each.code ?? "").slice(0, 20);
        const remark = String(each.remark ?? "").slice(0, 1000);
        this.decisions.set(finding.number, { decision, code, remark });
      } else {
        missing += 1;
      }
    }
    return missing;
  }

  document() {
    const { video, video_sha256, duration_s, findings_id, every_s, scoring } = this.report;
    return {
      schema: REVIEW_SCHEMA,
      video,
      video_sha256,
      duration_s,
      findings_id,
      every_s,
      scoring,
      reviewer: this.reviewer,
      saved_at: new Date().toISOString(),
      findings: this.report.findings.map(({ number, start_s, end_s, peak_s, score }) => ({
        number,
        start_s,
        end_s,
        peak_s,
        score,
        ...this.of(number),
      })),
    };
  }

  /** Hands the review to the browser as a download. */
  save() {
    const text = `${JSON.stringify(this.document(), null, 2)}\n`;
    const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    const link = html("a", { href: address, download: `${this.report.video}.review.json` });
    link.click();
    // The download reads the address after this task.
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
    this.unsaved = false;
    this.keep();
    this.listeners.forEach((listener) => listener());
  }
}
