"use strict";
// Draws the charts; switches between light and dark; copies the methods; opens the details for printing. Fetches nothing, stores nothing.
(() => {
  const root = document.documentElement;
  const { config, charts } = JSON.parse(document.getElementById("charts").textContent);
  const options = {
    mode: "vega-lite",
    renderer: "svg",
    actions: false,
    ast: true, // expressions are interpreted, so that the page needs no eval
    config,
    tooltip: { disableDefaultStyle: true },
  };
  for (const [name, spec] of Object.entries(charts)) {
    const place = document.getElementById(`chart-${name}`);
    vegaEmbed(place, spec, options).catch((error) => {
      place.textContent = `This chart could not be drawn: ${error.message}`;
    });
  }

  const toggle = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => {
    toggle.textContent = isDark() ? "Light" : "Dark";
    toggle.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
  };
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    show();
  });
  system.addEventListener("change", show);
  show();

  const quote = document.getElementById("quote");
  const copy = document.getElementById("copy");
  const select = () => getSelection().selectAllChildren(quote);
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    const said = document.getElementById("copied");
    try {
      await navigator.clipboard.writeText(quote.textContent);
      said.textContent = "Copied.";
    } catch {
      select();
      said.textContent = document.execCommand("copy") ? "Copied." : "It is selected: copy it with the keyboard.";
    }
  });

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")].filter((one) => !one.closest("#explorer"));
    for (const one of closed) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of closed) one.open = false;
  });
})();
