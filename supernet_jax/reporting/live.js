// A page that is served looks for a newer one; what was set and where one has read stay. Where
// there is none to be had, it says so.
(() => {
  const KEY = `supernet report ${location.pathname}`, MILLISECONDS = 2000;
  const PATIENCE = 60000; // milliseconds: making a page may take some seconds
  const fields = () => [...document.querySelectorAll("#picker input[type=text]")];
  const details = () => [...document.querySelectorAll("details")];
  const kept = JSON.parse(sessionStorage.getItem(KEY) ?? "null");
  sessionStorage.removeItem(KEY);
  if (kept) {
    fields().forEach((field, i) => {
      field.value = kept.fields[i] ?? "";
      field.dispatchEvent(new Event("change"));
    });
    details().forEach((one, i) => { one.open = kept.open[i] ?? false; });
    document.getElementById(kept.focus)?.focus({ preventScroll: true });
    scrollTo(0, kept.scroll);
  }
  const again = () => {
    sessionStorage.setItem(KEY, JSON.stringify({
      fields: fields().map((field) => field.value),
      open: details().map((one) => one.open),
      focus: document.activeElement?.id ?? "",
      scroll: scrollY,
    }));
    history.scrollRestoration = "manual"; // a browser's own comes too early, or too late
    location.reload();
  };
  // The page's own, whatever there was by the time of the first look.
  const own = `"${document.querySelector("meta[name=state]").content}"`;
  const line = document.querySelector("header").appendChild(document.createElement("p"));
  line.className = "stale";
  line.setAttribute("role", "status");
  const say = (fault) => {
    const text = fault && `This page is not of now: ${fault}`;
    if (line.textContent !== text) line.textContent = text;
  };
  const look = async () => {
    try {
      const signal = AbortSignal.timeout(PATIENCE);
      const answer = await fetch("/", { method: "HEAD", cache: "no-store", signal });
      const tag = answer.ok && answer.headers.get("ETag");
      if (!tag) throw new Error("somebody else answers there now");
      if (tag !== own) return again();
      say(decodeURIComponent(answer.headers.get("Supernet-Fault") ?? ""));
    } catch { // it may be started again
      say("the command that serves it has ended, or does not answer.");
    }
    setTimeout(look, MILLISECONDS);
  };
  look();
})();
