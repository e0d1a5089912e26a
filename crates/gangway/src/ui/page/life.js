// One job: what it is, why it is where it is, and its life as a line of time.
//
// Each moment says who knows it: Slurm's record, or this page, which has seen it happen between two looks.

import { element, isOutside, lasting } from "./store.js";

const WORDS = {
  came: () => "came into the queue",
  reason: (detail) => `waits for another reason: ${detail || "none"}`,
  started: (detail) => `holds nodes: ${detail}`,
  seated: () => "all its pods have their nodes",
  moved: (detail) => `holds other nodes: ${detail}`,
  requeued: (detail) => `waits again${detail ? `: ${detail}` : ""}`,
  state: (detail) => `Slurm says ${detail}`,
  left: () => "left the queue",
};

export class Life {
  constructor(store, choose) {
    this.store = store;
    this.choose = choose;
    this.panel = document.getElementById("life");
    this.title = document.getElementById("life-title");
    this.body = document.getElementById("life-body");
    this.job = null;
    this.asked = 0;
    document.getElementById("close").addEventListener("click", () => choose(null));
  }

  /** Shows a job, or none. */
  async open(job) {
    const before = this.job;
    this.job = job;
    this.panel.hidden = job === null;
    if (job === null) return;
    if (job !== before) {
      const row = this.store.jobs.byKey.get(job);
      this.title.textContent = row ? row.name : `job ${job}`;
      this.body.replaceChildren(element("p", { kind: "soft", text: "asking …" }));
    }
    await this.ask();
  }

  /** Asks again, for the queue has moved. */
  refresh() {
    if (this.job !== null && performance.now() - this.asked > 4000) this.ask();
  }

  async ask() {
    const job = this.job;
    this.asked = performance.now();
    let told;
    try {
      const answer = await fetch(`api/jobs/${job}`);
      if (!answer.ok) throw new Error(await answer.text());
      told = await answer.json();
    } catch (problem) {
      if (this.job !== job) return;
      const row = this.store.jobs.byKey.get(job);
      const why = element("p", { kind: "soft", text: `Its explanation cannot be had now: ${problem.message}` });
      this.body.replaceChildren(...(row ? [facts(row)] : []), why);
      return;
    }
    if (this.job === job) this.draw(told);
  }

  draw({ explained, life }) {
    const live = this.store.jobs.byKey.get(this.job);
    const row = live ?? life.last;
    if (!row) {
      this.body.replaceChildren(element("p", { text: `No job ${this.job} is in the queue, and this page has seen none leave it.` }));
      return;
    }
    this.title.textContent = row.name;
    const about = element("div", {}, facts(row, !live && !explained));
    if (explained) {
      const help = element("ul", {}, ...explained.help.map((line) => element("li", { text: line })));
      about.append(element("p", { kind: "said", text: explained.why }), help);
    }
    const now = this.store.now();
    // Without a job there is no record of a life.
    const parts = isOutside(row) ? [about] : [about, part("life", track(row, life, now), moments(row, life, now, Boolean(live)))];
    const ahead = explained?.ahead_count ?? 0;
    if (ahead) parts.push(part(`ahead of it: ${ahead.toLocaleString("en")}${ahead > explained.ahead.length ? ", first" : ""}`, this.ahead(explained.ahead)));
    const open = this.body.scrollTop;
    this.body.replaceChildren(...parts);
    this.body.scrollTop = open;
  }

  ahead(rows) {
    const made = rows.map((row) => {
      const path = row.workload ? [row.workload.namespace, row.workload.name].filter(Boolean).join("/") : row.name;
      const line = element("tr", {},
        element("td", { text: path, title: path }),
        element("td", { kind: "soft", text: row.user }),
        element("td", { kind: "n soft", text: `${row.nodes} nodes` }));
      line.addEventListener("click", () => this.choose(row.job));
      return line;
    });
    return element("table", { kind: "ahead" }, element("tbody", {}, ...made));
  }
}

function part(title, ...children) {
  return element("div", {}, element("h3", { text: title }), ...children);
}

function facts(row, left = false) {
  const list = element("dl", { kind: "facts" });
  const add = (name, value, kind) => {
    if (value === "" || value === undefined || value === 0) return;
    list.append(element("div", { kind }, element("dt", { text: name }), element("dd", { text: value })));
  };
  add("Slurm job", isOutside(row) ? "none" : row.id);
  add("state", left ? "left the queue" : row.state.toLowerCase());
  add("nodes", row.nodes);
  add("GPUs", row.gpus);
  add("user", row.user);
  add("account", row.account);
  add("partition", row.partition);
  add("priority", row.priority);
  add("requeued", row.restarts && (row.restarts === 1 ? "once" : `${row.restarts} times`));
  add(row.kind === "batch" ? "kind" : "workload", row.kind === "batch" ? "sbatch" : row.workload || "gang");
  add("on", row.hosts, "wide");
  return list;
}

// From submission to the end, or as far as Slurm expects.
function track(row, life, now) {
  const waits = row.state === "PENDING";
  const left = life.moments.findLast?.((one) => one.what === "left");
  const gone = left && life.last ? left.at : null;
  const from = row.submitted || row.start || now;
  const begun = waits ? null : row.start || null;
  const until = gone ?? now;
  const then = waits ? row.start || null : gone ? null : row.end || null;
  // What is far away is cut, so that the past keeps its room.
  const past = Math.max(60, until - from);
  const to = Math.max(until, Math.min(then ?? until, until + past * 1.5));
  const span = Math.max(60, to - from);
  const x = (time) => 100 * Math.min(1, Math.max(0, (time - from) / span));
  const box = element("div", { kind: "track" });
  box.setAttribute("role", "img");
  const bar = (kind, a, b) => {
    const line = element("div", { kind: `line ${kind}` });
    line.style.left = `${x(a)}%`;
    line.style.width = `${Math.max(0, x(b) - x(a))}%`;
    box.append(line);
  };
  const label = (time, text, below, kind = "") => {
    const mark = element("div", { kind: `dot ${kind}` });
    mark.style.left = `${x(time)}%`;
    const side = x(time) > 72 ? " right" : x(time) > 18 ? " mid" : "";
    const said = element("div", { kind: `label${below ? " below" : ""}${side}`, text });
    said.style.left = `${x(time)}%`;
    box.append(mark, said);
  };
  bar("waits", from, begun ?? until);
  if (begun) bar(`runs ${row.kind}`, begun, until);
  if (then && then > until) bar("then", until, Math.min(then, to));
  label(from, `submitted ${clock(from)}`, false);
  if (begun && begun - from > span * 0.02) label(begun, `started ${clock(begun)}`, true);
  if (then && then > until) {
    const cut = then > to ? "→ " : "";
    label(Math.min(then, to), waits ? `${cut}expected ${clock(then)}` : `${cut}ends by ${clock(then)}`, false);
  }
  label(until, gone ? `left ${clock(gone)}` : "now", true, "now");
  const told = waits ? `waits since ${lasting(now - from)}` : `ran ${lasting(until - (begun ?? from))}`;
  box.setAttribute("aria-label", `Submitted ${clock(from)}, ${told}`);
  return box;
}

function moments(row, life, now, live) {
  const all = [];
  const slurm = (at, text) => at && all.push({ at, text, by: "Slurm" });
  slurm(row.submitted, "submitted");
  if (row.eligible > row.submitted) slurm(row.eligible, "may start from here on");
  if (row.state !== "PENDING") slurm(row.start, "started");
  for (const one of life.moments) {
    const gap = one.at - one.since;
    const by = gap > 10 ? `seen here, after ${clock(one.since)}` : "seen here";
    all.push({ at: one.at, text: WORDS[one.what]?.(one.detail ?? "") ?? one.what, by });
  }
  all.sort((a, b) => a.at - b.at);
  if (live && row.state === "PENDING" && row.start > now) all.push({ at: row.start, text: "expected to start", by: "Slurm's estimate", then: true });
  if (live && row.state !== "PENDING" && row.end > now) all.push({ at: row.end, text: "ends at the latest", by: "Slurm", then: true });
  const items = all.map(({ at, text, by, then }) => {
    const time = element("time", { text: clock(at, true) });
    time.dateTime = new Date(at * 1000).toISOString();
    return element("li", { kind: then ? "then" : "" }, time, element("span", { text }), element("span", { kind: "by", text: by }));
  });
  const since = element("p", { kind: "soft", text: life.began ? `“Seen here” begins at ${clock(life.began)}, and has gaps while nobody watched.` : "" });
  return element("div", {}, element("ol", { kind: "moments" }, ...items), since);
}

/** A time of day, with the date where it is another day. */
export function clock(seconds, exact = false) {
  const date = new Date(seconds * 1000);
  const today = date.toDateString() === new Date().toDateString();
  const time = date.toLocaleTimeString("en-GB", exact ? {} : { hour: "2-digit", minute: "2-digit" });
  return today ? time : `${date.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${time}`;
}
