// What the pages can do without, and are nicer with: copying, and news as it happens.
"use strict";

for (const button of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) break;
  const label = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("pre").textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 2000);
  });
}

// Parts of the page with `data-live` follow what happens: the console tells that something has
// changed, and this asks for the page again and puts its parts in. Whatever has the keyboard's focus
// keeps it, and what is unfolded stays so.
const live = () => document.querySelectorAll("[data-live]");

if (live().length && window.EventSource) {
  const stale = document.getElementById("stale");
  let stream = null;
  let asking = false;
  let again = false;

  const old = (since) => {
    stale.textContent = `Keyfold does not answer since ${since.toLocaleTimeString()}. What you see is from before.`;
    stale.hidden = false;
  };

  const place = (node) => [...document.querySelectorAll("main a, main button, main summary, main [tabindex]")].indexOf(node);

  const put = (page) => {
    const before = [...live()];
    const after = [...page.querySelectorAll("[data-live]")];
    if (before.length !== after.length) { location.reload(); return; }
    const focused = document.activeElement && document.activeElement.closest("[data-live]") ? place(document.activeElement) : -1;
    const open = [...document.querySelectorAll("[data-live] details")].map((one) => one.open);
    before.forEach((one, at) => one.replaceWith(document.adoptNode(after[at])));
    document.querySelectorAll("[data-live] details").forEach((one, at) => { if (open[at]) one.open = true; });
    if (focused >= 0) {
      const found = document.querySelectorAll("main a, main button, main summary, main [tabindex]")[focused];
      if (found) found.focus({ preventScroll: true });
    }
  };

  const ask = async () => {
    if (asking) { again = true; return; }
    asking = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.redirected) { location.reload(); return; }
      if (answer.ok) {
        put(new DOMParser().parseFromString(await answer.text(), "text/html"));
        stale.hidden = true;
      } else {
        old(new Date());
      }
    } catch {
      old(new Date());
    } finally {
      asking = false;
      if (again) { again = false; ask(); }
    }
  };

  const begin = () => {
    if (stream) return;
    stream = new EventSource(live()[0].dataset.live || "/live");
    let lost = false;
    stream.addEventListener("change", ask);
    stream.addEventListener("away", () => old(new Date()));
    stream.onopen = () => { if (lost) { lost = false; ask(); } };
    stream.onerror = () => { if (!lost) { lost = true; old(new Date()); } };
  };

  const end = () => { if (stream) { stream.close(); stream = null; } };

  // A window that nobody sees holds no stream: browsers have few of them.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { end(); } else { begin(); ask(); }
  });
  if (!document.hidden) begin();
}
