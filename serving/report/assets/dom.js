// Elements made of data. Text becomes text nodes and attributes only, never markup: names and remarks may hold anything.

const SVG = "http://www.w3.org/2000/svg";

const byId = (id) => document.getElementById(id);

/** The data that the page was made with. */
const pageData = () => JSON.parse(byId("data").textContent);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

/** An HTML element; null children are left out. */
const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

/** An SVG element. */
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/** Term and description pairs into a list of definitions. */
function fillFacts(list, facts) {
  list.replaceChildren(...facts.map(([term, value]) => html("div", {}, html("dt", {}, term), html("dd", {}, value))));
}

/** Seconds as HH:MM:SS, fractions cut off, as inspection software writes them. */
function clock(seconds) {
  const whole = Math.floor(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return parts.map((part) => String(part).padStart(2, "0")).join(":");
}

/** Metres as text. */
const metres = (distance) => `${distance.toFixed(2)} m`;

/** "1 finding", "2 findings". */
const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

/** Whether keys belong to the element that has the focus, because it takes text. */
function isTyping(element) {
  return element.matches("input, textarea, select");
}
