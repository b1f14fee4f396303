"use strict";
// The map: what is pointed at on one side is marked on both and named below; a pressed cluster is seen alone.
(() => {
  const maps = document.querySelector(".maps");
  if (!maps) return;
  const names = JSON.parse(document.getElementById("map-names").textContent);
  const pointed = document.getElementById("map-pointed");

  const mark = (selector) => {
    for (const node of maps.querySelectorAll(".near")) node.classList.remove("near");
    if (selector) for (const node of maps.querySelectorAll(selector)) node.classList.add("near");
  };
  maps.addEventListener("pointerover", (event) => {
    const dot = event.target.closest("[data-i]");
    const term = event.target.closest("[data-t]");
    if (dot) mark(`[data-i="${dot.dataset.i}"]`);
    else if (term) mark(`[data-t="${term.dataset.t}"]`);
    else mark("");
    pointed.textContent = dot ? names[dot.dataset.i] : "\u00a0";
  });
  maps.addEventListener("pointerleave", () => {
    mark("");
    pointed.textContent = "\u00a0";
  });

  const buttons = [...document.querySelectorAll(".cluster")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const alone = button.getAttribute("aria-pressed") !== "true";
      for (const other of buttons) other.setAttribute("aria-pressed", String(alone && other === button));
      maps.classList.toggle("alone", alone);
      for (const dot of maps.querySelectorAll("[data-i]")) dot.classList.toggle("on", alone && dot.classList.contains(`c${button.dataset.c}`));
    });
  }
})();
