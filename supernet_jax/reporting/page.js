"use strict";
// Everything can be read without this: it makes hints appear at once, and tables sort. What scripts
// draw says its hint in data-tip.
(() => {
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);
  const said = new Map();
  for (const title of document.querySelectorAll("svg title")) {
    said.set(title.parentNode, title.textContent);
    title.remove();
  }
  const show = (event) => {
    const text = said.get(event.target) ?? event.target.dataset?.tip;
    tip.hidden = text === undefined;
    if (tip.hidden) return;
    tip.textContent = text;
    const width = tip.offsetWidth, height = tip.offsetHeight;
    const left = Math.min(event.clientX + 14, innerWidth - width - 6);
    const below = event.clientY + 16 + height < innerHeight;
    tip.style.left = Math.max(4, left) + "px";
    tip.style.top = (below ? event.clientY + 16 : Math.max(4, event.clientY - height - 10)) + "px";
  };
  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("scroll", () => { tip.hidden = true; }, true);

  for (const table of document.querySelectorAll("table")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, place) => {
      const button = document.createElement("button");
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const value = (row) => row.cells[place].dataset.v ?? row.cells[place].textContent;
        const order = (a, b) => {
          if (a === "" || b === "") return (a === "") - (b === ""); // what is not known comes last
          const numbers = [Number(a), Number(b)];
          const known = !numbers.some(Number.isNaN);
          return (up ? 1 : -1) * (known ? numbers[0] - numbers[1] : a.localeCompare(b));
        };
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => order(value(a), value(b)));
        table.tBodies[0].append(...rows);
      });
    });
  }
})();
