// Menu on a phone, dark or light, and search. No library, no network: the index is search.js.
(function () {
  const at = id => document.getElementById(id);
  const root = document.documentElement.dataset.root || "";  // from this page to the home page

  const menu = at("menu"), sidebar = at("sidebar");
  menu.addEventListener("click", () => menu.setAttribute("aria-expanded", sidebar.classList.toggle("open")));
  const here = sidebar.querySelector("[aria-current]");
  if (here && here.offsetTop > sidebar.clientHeight) sidebar.scrollTop = here.offsetTop - sidebar.clientHeight / 2;

  at("theme").addEventListener("click", () => {
    const html = document.documentElement, dark = getComputedStyle(html).colorScheme === "dark";
    html.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("theme", html.dataset.theme); } catch (e) { /* not kept */ }
  });

  const input = at("search"), found = at("found");
  const safe = s => s.replace(/[&<>"]/g, c => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" }[c]));
  const quoted = w => w.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  function score(e, words) {
    let sum = 0;
    for (const w of words) {
      const h = e.h.toLowerCase(), p = e.p.toLowerCase(), x = e.x.toLowerCase();
      const one = (h === w ? 60 : h.startsWith(w) ? 30 : h.includes(w) ? 18 : 0) + (e.h === "" && p.includes(w) ? 22 : p.includes(w) ? 4 : 0) + (x.includes(w) ? 3 : 0);
      if (!one) return 0;
      sum += one;
    }
    return sum;
  }
  function snippet(e, words) {
    const spot = Math.max(0, e.x.toLowerCase().indexOf(words[0]) - 50);
    return words.reduce((s, w) => s.replace(new RegExp(quoted(safe(w)), "gi"), m => "<mark>" + m + "</mark>"), safe((spot ? "..." : "") + e.x.slice(spot, spot + 150)));
  }
  function show() {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean).sort((a, b) => b.length - a.length).slice(0, 6);
    found.hidden = !words.length;
    if (!words.length) return;
    const hits = (window.SEARCH || []).map(e => [score(e, words), e]).filter(h => h[0]).sort((a, b) => b[0] - a[0]).slice(0, 12);
    found.innerHTML = hits.map(h => `<a href="${safe(root + h[1].u)}"><b>${safe(h[1].h || h[1].p)}</b>${h[1].h ? " &middot; " + safe(h[1].p) : ""}<small>${snippet(h[1], words)}</small></a>`).join("") || "<p>Nothing found.</p>";
  }
  input.addEventListener("input", show);
  input.addEventListener("focus", show);
  input.addEventListener("keydown", e => {
    const links = [...found.querySelectorAll("a")], on = links.findIndex(a => a.classList.contains("on"));
    if (e.key === "Escape") { input.value = ""; show(); input.blur(); }
    else if (e.key === "Enter" && links.length) (links[on] || links[0]).click();
    else if ((e.key === "ArrowDown" || e.key === "ArrowUp") && links.length) {
      e.preventDefault();
      const next = (on + (e.key === "ArrowDown" ? 1 : links.length - (on < 0 ? 0 : 1))) % links.length;
      if (on >= 0) links[on].classList.remove("on");
      links[next].classList.add("on");
      links[next].scrollIntoView({ block: "nearest" });
    }
  });
  found.addEventListener("click", () => { found.hidden = true; });
  document.addEventListener("click", e => { if (!e.target.closest(".search")) found.hidden = true; });
  document.addEventListener("keydown", e => { if (e.key === "/" && !/INPUT|TEXTAREA/.test(document.activeElement.tagName)) { e.preventDefault(); input.focus(); } });
})();
