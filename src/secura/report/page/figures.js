"use strict";
/* ---- figures, in the page's colours and as wide as the page or the paper ---- */

const PAPER_WIDTH = 660; // pixels of CSS that fit a printed page, margins taken off

function themed(layout, ink) {
  return { ...layout, font: { ...layout.font, color: ink }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" };
}

function drawFigures(figures) {
  const settings = { displayModeBar: false, responsive: true };
  const ids = Object.keys(figures);
  const ink = () => getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
  let drawn = 0;
  const drawNext = () => {
    const id = ids[drawn++];
    Plotly.newPlot(id, figures[id].data, themed(figures[id].layout, ink()), settings);
  };
  const drawSome = () => {
    // A page of a hundred figures must answer while they are drawn.
    for (const until = performance.now() + 100; drawn < ids.length && performance.now() < until; ) drawNext();
    if (drawn < ids.length) setTimeout(drawSome);
    else document.documentElement.dataset.drawn = String(drawn);
  };
  drawSome();
  const repaint = (changes) => { for (const id of ids.slice(0, drawn)) Plotly.relayout(id, changes(document.getElementById(id))); };
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => repaint(() => ({ "font.color": ink() })));
  window.addEventListener("beforeprint", () => {
    while (drawn < ids.length) drawNext();
    repaint((div) => ({ "font.color": "#000", width: Math.min(div.clientWidth, PAPER_WIDTH) }));
  });
  window.addEventListener("afterprint", () => repaint(() => ({ "font.color": ink(), width: null, autosize: true })));
}
