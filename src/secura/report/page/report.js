const data = JSON.parse(document.getElementById("data").textContent);

/* ---- a legend's entry hides and shows what is drawn of its label, in all panels of the exhibit ---- */

for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    for (const plot of button.closest(".exhibit").querySelectorAll(".plot")) {
      if (!plot.data) continue;
      const traces = plot.data.flatMap((trace, index) => (trace.legendgroup === button.dataset.group ? [index] : []));
      if (traces.length) Plotly.restyle(plot, { visible: shown }, traces);
    }
  });
}

/* ---- a link to a run opens the list it stands in; paper shows what is folded away ---- */

function openTarget() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.tagName === "DETAILS") target.open = true;
}

let opened = [];
window.addEventListener("hashchange", openTarget);
window.addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open]):not(.long)")];
  for (const each of opened) each.open = true;
});
window.addEventListener("afterprint", () => { for (const each of opened) each.open = false; });
openTarget();
