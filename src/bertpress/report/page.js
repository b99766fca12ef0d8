// One tooltip for pointers, fingers and keyboards: native ones are slow, and phones have none.  Marks of one thing in
// several charts light up together, and tables of many rows can be sorted.
(() => {
  "use strict";
  const tip = document.getElementById("tip");
  for (const title of document.querySelectorAll("svg title")) {
    title.parentNode.dataset.tip = title.textContent;
    title.parentNode.setAttribute("aria-label", title.textContent);
    title.remove();
  }
  for (const owner of document.querySelectorAll("[title]")) {
    owner.dataset.tip = owner.title;
    owner.removeAttribute("title");
  }
  const link = (owner) => {
    const name = owner === null ? undefined : owner.dataset.link;
    for (const mark of document.querySelectorAll("[data-link]")) {
      mark.classList.toggle("linked", mark.dataset.link === name);
    }
  };
  const sort = (heading) => {
    const down = heading.ariaSort === "ascending";
    for (const other of heading.parentNode.children) other.ariaSort = "none";
    heading.ariaSort = down ? "descending" : "ascending";
    const body = heading.closest("table").tBodies[0];
    const value = (row) => row.cells[heading.cellIndex].dataset.value;
    const order = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
    const rows = [...body.rows].sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
      return down ? order(b, a) : order(a, b);
    });
    body.append(...rows);
  };
  for (const button of document.querySelectorAll(".sortable thead button")) {
    button.addEventListener("click", () => sort(button.closest("th")));
  }
  const move = (event) => {
    const owner = event.target instanceof Element ? event.target.closest("[data-tip]") : null;
    link(owner);
    tip.hidden = owner === null;
    if (owner === null) return;
    tip.textContent = owner.dataset.tip;
    const edge = document.documentElement.clientWidth - tip.offsetWidth - 8;
    const above = event.clientY - tip.offsetHeight - 14;
    tip.style.left = `${Math.max(8, Math.min(edge, event.clientX - tip.offsetWidth / 2))}px`;
    tip.style.top = `${above < 8 ? event.clientY + 18 : above}px`;
  };
  document.addEventListener("pointermove", move);
  document.addEventListener("pointerdown", move);
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
})();
