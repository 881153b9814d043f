// The list of findings: what to pick from on the screen, and all there is of them on paper.

const DECISION_TEXT = { unreviewed: "undecided", accepted: "accepted: defect", rejected: "rejected: normal" };

class FindingsList {
  constructor(place, report, onPick) {
    this.items = new Map();
    for (const finding of report.findings) {
      const item = this.item(finding);
      item.button.addEventListener("click", () => onPick(finding.number));
      this.items.set(finding.number, item);
      place.append(item.row);
    }
  }

  item(finding) {
    const decision = html("span", { class: "decision" });
    const remark = html("span", { class: "remark" });
    const where = finding.distance_m === null ? "" : ` · ${metres(finding.distance_m)}`;
    const picture = html("img", { src: finding.bare_photo ?? finding.photo, alt: "", loading: "lazy", decoding: "async" });
    const button = html(
      "button",
      { type: "button", "aria-label": `Finding ${finding.number}` },
      picture,
      html(
        "span",
        { class: "about" },
        html("strong", {}, `${finding.number} · ${clock(finding.peak_s)}${where}`),
        html("span", {}, `score ${finding.score.toFixed(3)} · ${(finding.end_s - finding.start_s).toFixed(1)} s`),
        decision,
        remark,
      ),
    );
    return { row: html("li", {}, button), button, decision, remark };
  }

  mark(picked, review) {
    for (const [number, { row, button, decision, remark }] of this.items) {
      const of = review.of(number);
      row.dataset.decision = of.decision;
      button.setAttribute("aria-current", String(number === picked));
      decision.textContent = DECISION_TEXT[of.decision] + (of.code ? `, ${of.code}` : "");
      remark.textContent = of.remark;
    }
  }

  reveal(number) {
    this.items.get(number)?.row.scrollIntoView({ block: "nearest" });
  }
}
