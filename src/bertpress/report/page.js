// One tooltip for pointers, fingers and keyboards: native ones are slow, and phones have none.
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
  const move = (event) => {
    const owner = event.target instanceof Element ? event.target.closest("[data-tip]") : null;
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
