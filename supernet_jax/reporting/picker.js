// Sliders of budgets: the best known network within all of them, marked in the chart and drawn.
(() => {
  const panel = document.getElementById("picker");
  if (!panel) return;
  const known = JSON.parse(document.getElementById("known").textContent);
  const at = (id) => document.getElementById(id);
  const limits = known.costs.map(() => Infinity);
  const ranges = known.costs.map((_, i) => at(`range-${i}`));
  const fields = known.costs.map((_, i) => at(`most-${i}`));
  const write = (x) => x.toLocaleString("en-US", { maximumSignificantDigits: 15 });
  const brief = (x) => x.toLocaleString("en-US", { maximumSignificantDigits: x < 1e4 ? 6 : 15 });

  // The budget of a place of a slider: round, but no two alike, and never below what it stands for.
  const budget = (i, place) => {
    const { low, high, log } = known.costs[i], part = place / known.steps;
    if (part >= 1) return Infinity;
    const exact = log ? low * (high / low) ** part : low + (high - low) * part;
    const step = (log ? exact * Math.log(high / low) : high - low) / known.steps;
    if (!(step > 0)) return exact;
    const unit = 10 ** Math.floor(Math.log10(step));
    return Math.max(Number((Math.ceil(exact / unit) * unit).toPrecision(12)), exact);
  };
  const place = (i, limit) => {
    const { low, high, log } = known.costs[i];
    if (limit >= high) return known.steps;
    if (limit <= low) return 0;
    const part = log ? Math.log(limit / low) / Math.log(high / low) : (limit - low) / (high - low);
    return Math.floor(part * known.steps);
  };
  // What was typed, as 300,000 or 300 M; NaN if it is no number, without text no bound.
  const read = (text) => {
    const plain = text.replace(/[\s,_]/g, "");
    if (plain === "") return Infinity;
    const parts = /^(\d+\.?\d*|\.\d+)(e[+-]?\d+)?([kKMGT]?)$/.exec(plain);
    if (!parts) return NaN;
    const powers = { "": 1, k: 1e3, K: 1e3, M: 1e6, G: 1e9, T: 1e12 };
    return Number(parts[1] + (parts[2] ?? "")) * powers[parts[3]];
  };

  // As a shell reads it: one word, whatever is in it.
  const quoted = (text) => /^[\w@%+=:,./-]+$/.test(text) ? text :
    `'${text.replaceAll("'", `'"'"'`)}'`;
  const command = (one) => known.command[0] + quoted(one.arch) + known.command[1] + one.name;

  const element = (name, text, kind) => {
    const made = document.createElement(name);
    made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const note = (text) => element("p", text, "note");
  const costs = (one) => {
    const list = document.createElement("dl");
    known.costs.forEach(({ label }, i) => {
      const cost = one.costs[i], value = element("dd", cost === null ? "not known" : brief(cost));
      if (limits[i] !== Infinity) value.append(element("small", ` of ${brief(limits[i])}`, "soft"));
      list.append(element("dt", label), value);
    });
    return list;
  };
  const tell = (one) => {
    const parts = [], bounded = known.costs.filter((_, i) => limits[i] !== Infinity);
    if (one) {
      const all = known.count === 1 ? "the only" : `the best of ${write(known.count)}`;
      const best = `${known.measured}, ${all} evaluated subnet${known.count === 1 ? "" : "s"}`;
      parts.push(element("p", one.shown, "value"), note(best), costs(one));
    } else {
      parts.push(element("p", "No known network is within all of these.", "none"));
      parts.push(...bounded.map(({ label, low }) => note(`${label}: the least is ${brief(low)}.`)));
    }
    for (const { label, of } of bounded.filter((cost) => cost.of < known.count)) {
      const few = `${write(of)} of ${write(known.count)} subnets`;
      parts.push(note(`${label}: known of ${few}; under a bound the others do not count.`));
    }
    at("picked").replaceChildren(...parts);
  };

  // Where the chart has a value of an axis; see `svg_plot`.
  const chart = document.querySelector("#front-chart svg[data-x]");
  const layer = chart?.appendChild(document.createElementNS(chart.namespaceURI, "g"));
  const pixel = (axis, value) => {
    const [low, high, start, stop, log] = axis.split(" ").map(Number);
    const inside = Math.min(Math.max(value, low), high), f = log ? Math.log : (x) => x;
    return start + (f(inside) - f(low)) / (f(high) - f(low)) * (stop - start);
  };
  const mark = (one) => {
    if (!layer) return;
    const { x: across, y: up } = chart.dataset, parts = [];
    const draw = (name, attributes) => {
      const part = document.createElementNS(chart.namespaceURI, name);
      for (const [key, value] of Object.entries(attributes)) part.setAttribute(key, value);
      parts.push(part);
    };
    if (limits[0] !== Infinity) {
      const x = pixel(across, limits[0]), [bottom, top] = up.split(" ").slice(2, 4).map(Number);
      const right = Number(across.split(" ")[3]);
      draw("rect", { x, y: top, width: right - x, height: bottom - top, class: "beyond" });
      draw("path", { d: `M${x} ${top}V${bottom}`, class: "bound" });
    }
    if (one) {
      const cx = pixel(across, one.macs), cy = pixel(up, known.scale * one.value);
      draw("circle", { cx, cy, r: 8, class: "pick" });
    }
    layer.replaceChildren(...parts);
  };

  const show = () => {
    const one = known.subnets.find((s) =>
      s.costs.every((cost, i) => (cost ?? Infinity) <= limits[i]));
    tell(one);
    mark(one);
    at("take-out").hidden = !one;
    at("decisions").hidden = !one;
    at("copy").textContent = "Copy";
    if (!one) return;
    // Lines of a long command break between words, not within the name of an option.
    const words = command(one).split(/(?<= )(--[a-z]+)(?= )/);
    at("command").replaceChildren(...words.map((word, i) =>
      i % 2 ? element("span", word, "option") : word));
    drawDecisions(at("decisions"), known.bars, one.bars);
  };
  const bound = (i, limit) => {
    limits[i] = limit;
    const said = limit === Infinity ? "no bound" : `at most ${write(limit)}`;
    ranges[i].setAttribute("aria-valuetext", said);
    fields[i].removeAttribute("aria-invalid");
    show();
  };
  ranges.forEach((range, i) => range.addEventListener("input", () => {
    const limit = budget(i, Number(range.value));
    fields[i].value = limit === Infinity ? "" : write(limit);
    bound(i, limit);
  }));
  fields.forEach((field, i) => field.addEventListener("change", () => {
    const limit = read(field.value);
    if (Number.isNaN(limit)) {
      field.setAttribute("aria-invalid", "true");
      return;
    }
    field.value = limit === Infinity ? "" : write(limit);
    ranges[i].value = place(i, limit);
    bound(i, limit);
  }));

  // Where a page may not write to the clipboard, its text is selected for who copies by hand.
  const select = () => {
    const range = document.createRange();
    range.selectNodeContents(at("command"));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    at("copy").textContent = "Selected";
  };
  at("copy").addEventListener("click", () => {
    const text = at("command").textContent;
    if (!navigator.clipboard) return select();
    navigator.clipboard.writeText(text).then(() => { at("copy").textContent = "Copied"; }, select);
  });

  panel.hidden = false;
  ranges.forEach((range, i) => { // a browser may have kept what was typed before a reload
    range.value = known.steps;
    fields[i].value = "";
    bound(i, Infinity);
  });
  addEventListener("resize", show);
})();

