"use strict";
// The page is complete without the script, which only moves, hides and counts what is there. Texts and names become
// text nodes and properties, never markup.
const $ = (id) => document.getElementById(id);
const page = JSON.parse($("data").textContent);
const percent = (share, digits = 1) => (100 * share).toFixed(digits) + "%";
const count = (number, word) => number.toLocaleString("en") + " " + word + (number === 1 ? "" : "s");
// Control characters and marks that reorder text, as visible escapes.
const UNSAFE = /[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]|\p{Surrogate}/gu;
const shown = (name) => name.replace(UNSAFE, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
for (const element of document.querySelectorAll("[data-script]")) element.hidden = false;
addEventListener("beforeprint", () => {
  for (const element of document.querySelectorAll("details")) element.open = true;
});

function svg(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
