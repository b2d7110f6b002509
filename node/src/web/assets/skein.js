// Keeps a page fresh: asks for it again and puts in what has changed. Without it the page is the same, as of when it was loaded.
"use strict";
(() => {
  const PAUSE = 3000;
  const PATIENCE = 10000;
  const button = document.getElementById("live");
  let live = sessionStorage.getItem("live") !== "no";
  let timer = 0;
  let failures = 0;

  const show = () => {
    button.setAttribute("aria-pressed", String(live));
    button.textContent = !live ? "Paused" : failures > 1 ? "No answer" : "Live";
  };

  // Where the reader is: what is unfolded, what has the focus, how far a drawing is moved.
  const place = (part) => {
    const focused = part.contains(document.activeElement) ? document.activeElement : null;
    const links = [...part.querySelectorAll("a,[tabindex]")];
    const scrolled = [...part.querySelectorAll(".scroll,pre")].map((box) => [box.scrollLeft, box.scrollTop]);
    return { focus: focused ? links.indexOf(focused) : -1, scrolled };
  };
  const restore = (part, { focus, scrolled }) => {
    part.querySelectorAll(".scroll,pre").forEach((box, at) => {
      if (scrolled[at]) [box.scrollLeft, box.scrollTop] = scrolled[at];
    });
    const link = focus < 0 ? null : part.querySelectorAll("a,[tabindex]")[focus];
    if (link) link.focus({ preventScroll: true });
  };

  const refresh = async () => {
    const answer = await fetch(location.href, {
      cache: "no-store",
      headers: { accept: "text/html" },
      // A node that stands still is not live.
      signal: AbortSignal.timeout(PATIENCE),
    });
    if (!answer.ok) throw new Error(String(answer.status));
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of document.querySelectorAll("[data-live]")) {
      const next = fresh.getElementById(part.id);
      // Text that is being marked stays.
      const marked = getSelection();
      const busy = marked && !marked.isCollapsed && part.contains(marked.anchorNode);
      if (!next || busy || next.innerHTML === part.innerHTML) continue;
      const was = place(part);
      part.replaceChildren(...next.childNodes);
      restore(part, was);
    }
  };

  const turn = async () => {
    if (live && !document.hidden) {
      try {
        await refresh();
        failures = 0;
      } catch {
        failures += 1;
      }
      show();
    }
    timer = setTimeout(turn, PAUSE * Math.min(failures + 1, 10));
  };

  if (!document.querySelector("main [data-live]")) return;
  button.hidden = false;
  button.addEventListener("click", () => {
    live = !live;
    sessionStorage.setItem("live", live ? "yes" : "no");
    show();
    clearTimeout(timer);
    turn();
  });
  show();
  timer = setTimeout(turn, PAUSE);
})();
