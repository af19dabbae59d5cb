// The fault buttons of the tab "Server workers" on Locust's page: shown while that tab is open.
(() => {
  const kinds = KINDS;
  const bar = document.createElement("div");
  bar.id = "prefork-faults";
  bar.style.cssText =
    "position:fixed;left:0;right:0;bottom:0;padding:12px 16px;display:none;gap:8px;flex-wrap:wrap;align-items:center;" +
    "background:#1d2024;color:#e7e9ec;font:14px/1.4 system-ui,sans-serif;border-top:1px solid #33383e;z-index:1300";
  const said = document.createElement("pre");
  said.style.cssText = "flex-basis:100%;margin:4px 0 0;max-height:8em;overflow:auto;white-space:pre-wrap";
  for (const [kind, summary] of Object.entries(kinds)) {
    const button = document.createElement("button");
    button.textContent = summary;
    button.dataset.kind = kind;
    button.style.cssText = "padding:6px 12px;border:0;border-radius:6px;background:#c43a2f;color:#fff;font:inherit;cursor:pointer";
    button.onclick = async () => {
      const reply = await fetch(`./prefork/fault/${kind}`, { method: "POST", headers: { "X-Prefork": "1" } });
      said.textContent = await reply.text();
    };
    bar.append(button);
  }
  bar.append(said);
  document.body.append(bar);
  setInterval(async () => {
    const shown = new URLSearchParams(location.search).get("tab") === "prefork";
    bar.style.display = shown ? "flex" : "none";
    if (!shown) return;
    const { busy, marks } = await (await fetch("./prefork/marks")).json();
    for (const button of bar.querySelectorAll("button")) button.disabled = busy;
    if (marks.length) said.textContent = marks.join("\n");
  }, 500);
})();
