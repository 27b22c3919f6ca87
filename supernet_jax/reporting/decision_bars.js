// The decisions of an arch beside the largest's: a row of bars for each kind of decision.
const drawDecisions = (() => {
  const blank = document.createElement("div");
  blank.innerHTML = "<svg></svg>";
  const SVG = blank.firstChild.namespaceURI;
  const TITLE = "Its decisions beside the largest's";
  const HEIGHT = 40, HEAD = 22, GAP = 22; // of a lane's bars, of its name, below its numbers
  const make = (name, attributes, text) => {
    const one = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
    if (text !== undefined) one.textContent = text;
    return one;
  };
  const nameOf = (decision, option) => String((decision.names ?? decision.values)[option]);

  // How much of a cell is full, from 0 to 1: the value beside the largest one.
  const share = (decision, option) => {
    const last = decision.values.length - 1;
    const largest = decision.values[last];
    const plain = !decision.names && largest > 0 && decision.values[0] >= 0;
    return plain ? decision.values[option] / largest : (option + 1) / (last + 1);
  };

  const says = (bars, column, own, there) => {
    const many = column.blocks.length;
    const called = many > 1 ? `${column.blocks[0]} and ${many - 1} like it` : column.blocks[0];
    if (!there) return `${called}: left out`;
    const parts = column.cells.flatMap((place) => {
      if (place === null) return [];
      const decision = bars.decisions[place], last = decision.values.length - 1;
      return [`${decision.name} ${nameOf(decision, own.options[place])}` +
        ` (largest ${nameOf(decision, last)})`];
    });
    return [called, ...parts].join("\n");
  };

  const lane = (svg, bars, own, place, top, pitch) => {
    const wide = Math.min(pitch - Math.min(4, pitch * 0.25), 46);
    svg.append(make("text", { x: 0, y: top + 12 }, bars.lanes[place]));
    bars.columns.forEach((column, i) => {
      const cell = column.cells[place];
      const x = i * pitch, y = top + HEAD, there = own.there[i];
      const tip = says(bars, column, own, there);
      if (cell === null) return;
      const decision = bars.decisions[cell], option = own.options[cell];
      const add = (kind, from, height) => {
        const box = make("rect", { x, y: y + HEIGHT - from - height, width: wide, height,
          class: kind });
        box.dataset.tip = tip;
        svg.append(box);
      };
      add(there ? "cell" : "cell gone", 0, HEIGHT);
      if (!there) return;
      if (decision.names) {
        const step = HEIGHT / decision.names.length;
        add("cell full", option * step, step);
      } else add("cell full", 0, Math.max(1, HEIGHT * share(decision, option)));
      const text = nameOf(decision, option);
      if (text.length * 6 < pitch) {
        const middle = { x: x + wide / 2, y: y + HEIGHT + 12, class: "middle" };
        svg.append(make("text", middle, text));
      }
    });
  };

  // Fills a figure with what `bars` (of the space) and `own` (of the arch) say.
  return (figure, bars, own) => {
    figure.hidden = false;
    const title = document.createElement("strong");
    title.textContent = TITLE;
    const caption = document.createElement("figcaption");
    caption.append(title);
    const note = document.createElement("p");
    note.className = "note";
    if (typeof bars === "string" || !own) {
      note.textContent = typeof bars === "string" ? bars :
        "Its decisions are not drawn, because it is no arch of the space.";
      figure.replaceChildren(note);
      return;
    }
    for (const [kind, name] of [["full", "its own"], ["", "the largest"], ["gone", "left out"]]) {
      const key = document.createElement("span"), svg = make("svg", { viewBox: "0 0 16 12",
        class: "swatch", "aria-hidden": "true" });
      svg.append(make("rect", { x: 2, y: 1, width: 12, height: 10, class: `cell ${kind}` }));
      key.className = "key";
      key.append(svg, name);
      caption.append(key);
    }
    const width = Math.max(figure.clientWidth, 200), columns = bars.columns.length;
    const pitch = Math.min(width / columns, 52), each = HEAD + HEIGHT + GAP;
    const svg = make("svg", { viewBox: `0 0 ${width} ${bars.lanes.length * each}`,
      role: "img" });
    bars.lanes.forEach((_, place) => lane(svg, bars, own, place, place * each, pitch));
    const kept = own.there.filter(Boolean).length;
    const said = [`${kept} of ${columns} elastic blocks`, ...bars.rest.map((place) => {
      const decision = bars.decisions[place], last = decision.values.length - 1;
      return `${decision.name} ${nameOf(decision, own.options[place])}, the largest's is ` +
        nameOf(decision, last);
    })].join("; ");
    svg.setAttribute("aria-label", `${TITLE}: ${said}`);
    note.textContent = `${said}. Each column is a block, in order; a full bar is the largest.`;
    figure.replaceChildren(caption, svg, note);
  };
})();

