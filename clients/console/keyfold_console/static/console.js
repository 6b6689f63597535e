// What the pages can do without, and are nicer with: copying, and news as it happens.
"use strict";

// Buttons that copy appear where the browser can. Parts that are put in later have some, too.
const copyable = () => {
  if (!navigator.clipboard) return;
  for (const button of document.querySelectorAll("[data-copy][hidden]")) {
    const label = button.textContent;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.parentElement.querySelector("pre").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = label; }, 2000);
    });
  }
};
copyable();

// Times are said anew, as words.py says them, while the page stays open.
const units = [[86400, "day"], [3600, "hour"], [60, "minute"], [1, "second"]];

setInterval(() => {
  for (const time of document.querySelectorAll("time[datetime]")) {
    const seconds = (Date.now() - Date.parse(time.dateTime)) / 1000;
    const [size, unit] = units.find(([least]) => Math.abs(seconds) >= least) || units[3];
    const count = Math.floor(Math.abs(seconds) / size);
    const said = `${count} ${unit}${count === 1 ? "" : "s"}`;
    time.textContent = count === 0 ? "now" : seconds > 0 ? `${said} ago` : `in ${said}`;
  }
}, 15000);

// A page that could not be served looks whether it can be now. It is not loaded again before that, so
// that nobody loses the place at which they read.
for (const waiting of document.querySelectorAll("[data-again]")) {
  waiting.hidden = false;
  const look = async () => {
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.status !== 503) { location.reload(); return; }
    } catch { /* The console itself is away. */ }
    setTimeout(look, 1000 * waiting.dataset.again);
  };
  setTimeout(look, 1000 * waiting.dataset.again);
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

  // A form that was sent is on its way, and what it does is often the very news. A reload would put
  // the old page in place of its answer.
  let leaving = false;
  addEventListener("beforeunload", () => {
    leaving = true;
    setTimeout(() => { leaving = false; }, 60000);
  });

  const old = (since) => {
    if (!stale.hidden || leaving) return;
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
    copyable();
    document.querySelectorAll("[data-live] details").forEach((one, at) => { if (open[at]) one.open = true; });
    if (focused >= 0) {
      const found = document.querySelectorAll("main a, main button, main summary, main [tabindex]")[focused];
      if (found) found.focus({ preventScroll: true });
    }
  };

  // The stream may have come back before the server takes calls again, and tells nothing then.
  const failed = () => {
    old(new Date());
    setTimeout(() => { if (!document.hidden) ask(); }, 5000);
  };

  const ask = async () => {
    if (leaving) return;
    if (asking) { again = true; return; }
    asking = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (leaving) return;
      if (answer.redirected) { location.reload(); return; }
      if (answer.ok) {
        put(new DOMParser().parseFromString(await answer.text(), "text/html"));
        stale.hidden = true;
      } else {
        failed();
      }
    } catch {
      failed();
    } finally {
      // However much happens, the page is asked for at most every three seconds.
      setTimeout(() => {
        asking = false;
        if (again) { again = false; ask(); }
      }, 3000);
    }
  };

  let lost = false;

  const begin = () => {
    if (stream) return;
    stream = new EventSource(live()[0].dataset.live || "/live");
    stream.addEventListener("change", ask);
    stream.addEventListener("away", () => old(new Date()));
    stream.onopen = () => { if (lost) { lost = false; ask(); } };
    stream.onerror = () => {
      lost = true;
      old(new Date());
      // A browser goes on by itself after a broken stream, and not after an answer that is none.
      if (stream.readyState !== EventSource.CLOSED) return;
      end();
      setTimeout(() => { if (!document.hidden) begin(); }, 5000);
    };
  };

  const end = () => { if (stream) { stream.close(); stream = null; } };

  // A window that nobody sees holds no stream: browsers have few of them.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { end(); } else { begin(); ask(); }
  });
  if (!document.hidden) begin();

  // What comes further without an event, such as an operation, says how many seconds to wait.
  const look = () => {
    const moving = document.querySelector("[data-every]");
    if (!moving) return;
    setTimeout(() => { if (!document.hidden) ask(); look(); }, 1000 * moving.dataset.every);
  };
  look();
}

// A key's test that failed is tried again until it works, the visitor stops it, or ten minutes are
// over. What it says is read out once for each different outcome.
const proof = document.getElementById("proof");
if (proof) {
  const begun = Date.now();
  let stopped = false;
  let said = "";
  const voice = document.getElementById("proof-said");

  const look = () => {
    const stop = proof.querySelector("[data-stop]");
    if (!stop || stopped) return;
    stop.hidden = false;
    proof.querySelector("[data-trying]").hidden = false;
    stop.addEventListener("click", () => {
      stopped = true;
      stop.hidden = true;
      proof.querySelector("[data-trying]").hidden = true;
    });
    setTimeout(again, pause());
  };

  // Each test is an entry of the log, so it slows down after a minute.
  const pause = () => (Date.now() - begun < 60_000 ? 5_000 : 15_000);

  const again = async () => {
    if (stopped) return;
    // Nobody looks.
    if (document.hidden) return void setTimeout(again, pause());
    if (Date.now() - begun > 600_000) return void proof.querySelector("[data-stop]").click();
    const form = proof.querySelector("form.proof");
    const fields = new URLSearchParams(new FormData(form));
    fields.set("step", "test");
    fields.set("part", "1");
    try {
      const answer = await fetch(form.action, { method: "POST", body: fields, redirect: "error" });
      if (!answer.ok || stopped) throw new Error(answer.status);
      const text = await answer.text();
      const focused = document.activeElement;
      const held = proof.contains(focused) ? focused.dataset.keep : undefined;
      proof.innerHTML = text;
      if (held) proof.querySelector(`[data-keep="${held}"]`)?.focus();
      if (proof.querySelector("#link")) {
        const [, , test, link] = document.querySelectorAll(".journey li");
        test.removeAttribute("aria-current");
        test.className = "past";
        link.setAttribute("aria-current", "step");
      }
      const verdict = proof.querySelector(".verdict")?.textContent.trim() ?? "";
      if (verdict !== said) voice.textContent = said = verdict;
    } catch {
      // Signed out, or the console is away: the button says so when it is pressed.
      return;
    }
    look();
  };
  look();
}
