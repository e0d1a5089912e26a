// The queue as a table of thousands of rows, of which only those that are seen exist.

import { element, isOutside, lasting, waits } from "./store.js";

const HEIGHT = 29;
const SPARE = 8;

export class Queue {
  constructor(store, choose) {
    this.store = store;
    this.choose = choose;
    this.scroll = document.getElementById("queue");
    this.table = document.getElementById("jobs");
    this.body = this.table.tBodies[0];
    this.filter = document.getElementById("filter");
    this.count = document.getElementById("queue-count");
    this.empty = document.getElementById("queue-empty");
    this.show = "all";
    this.chosen = null;
    this.cursor = null;
    this.rows = [];
    this.made = new Map();
    this.above = padding();
    this.below = padding();
    this.scroll.addEventListener("scroll", () => this.soon(), { passive: true });
    new ResizeObserver(() => this.soon()).observe(this.scroll);
    this.filter.addEventListener("input", () => this.refresh(true));
    for (const chip of document.querySelectorAll(".chips button")) chip.addEventListener("click", () => this.only(chip));
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr[data-job]");
      if (row) this.choose(Number(row.dataset.job));
    });
    this.scroll.addEventListener("keydown", (event) => this.key(event));
  }

  only(chip) {
    this.show = chip.dataset.show;
    for (const other of document.querySelectorAll(".chips button")) other.setAttribute("aria-pressed", String(other === chip));
    this.refresh(true);
  }

  /** Takes up what has changed, or another filter. */
  refresh(toTop = false) {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    this.rows = this.store.jobs.rows.filter((job) => this.wants(job) && words.every((word) => text(job).includes(word)));
    const all = this.store.jobs.rows.length;
    const some = this.rows.length;
    this.count.textContent = some === all ? all.toLocaleString("en") : `${some.toLocaleString("en")} of ${all.toLocaleString("en")}`;
    this.empty.hidden = some > 0;
    this.empty.textContent = this.store.head.looked === 0 ? "waiting for the first answer" : all === 0 ? "nobody is in the queue" : "no job fits the filter";
    this.table.setAttribute("aria-rowcount", String(some + 1));
    if (toTop) this.scroll.scrollTop = 0;
    this.draw();
  }

  wants(job) {
    switch (this.show) {
      case "waiting": return waits(job);
      case "running": return !waits(job);
      case "gang": case "batch": return job.kind === this.show;
      default: return true;
    }
  }

  soon() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.draw();
    });
  }

  draw() {
    const seen = Math.ceil(this.scroll.clientHeight / HEIGHT) + 2 * SPARE;
    const first = Math.max(0, Math.min(Math.floor(this.scroll.scrollTop / HEIGHT) - SPARE, this.rows.length - seen));
    const last = Math.min(this.rows.length, first + seen);
    const now = this.store.now();
    const before = this.made;
    this.made = new Map();
    for (let at = first; at < last; at++) {
      const job = this.rows[at];
      const known = before.get(job.id);
      // What has not changed stays where it is, under whoever points at it.
      const line = known?.job === job && known.words === this.store.words ? known : this.line(job);
      this.renew(line, at, now);
      this.made.set(job.id, line);
    }
    const rows = [pad(this.above, first), ...[...this.made.values()].map((line) => line.row), pad(this.below, this.rows.length - last)];
    const there = this.body.children;
    if (there.length !== rows.length || rows.some((row, at) => row !== there[at])) this.body.replaceChildren(...rows);
    if (this.cursor !== null) this.scroll.setAttribute("aria-activedescendant", `job-${this.cursor}`);
  }

  line(job) {
    const waiting = waits(job);
    const cells = {
      place: element("td", { kind: "n soft" }),
      start: element("td", { kind: waiting ? "soft" : "" }),
      why: element("td", { kind: waiting ? "" : "soft" }),
    };
    const mark = element("i", { kind: `mark ${job.kind}${waiting ? " waits" : ""}`, title: job.kind === "batch" ? "sbatch" : "pods" });
    const row = element("tr", {},
      cells.place,
      element("td", { title: job.name }, mark, element("b", { text: job.name }), element("span", { kind: "id", text: isOutside(job) ? "" : job.id })),
      element("td", {}, element("span", { kind: `state ${stateKind(job.state)}`, text: job.state.toLowerCase() })),
      element("td", { kind: "n", text: job.nodes }),
      element("td", { kind: "n", text: job.gpus || "" }),
      element("td", { kind: "soft", text: job.user, title: job.account ? `${job.user}, account ${job.account}` : job.user }),
      element("td", { kind: "soft", text: job.partition, title: job.partition }),
      cells.start,
      cells.why,
    );
    row.id = `job-${job.id}`;
    row.dataset.job = job.id;
    if (waiting) why(cells.why, job, this.store.words);
    return { job, row, cells, words: this.store.words };
  }

  // What changes while a job does not.
  renew({ job, row, cells }, at, now) {
    write(cells.place, String(this.store.places.get(job.id) ?? ""));
    write(cells.start, when(job, now));
    if (!waits(job)) {
      write(cells.why, holds(job, now));
      cells.why.title = job.hosts ?? "";
    }
    row.setAttribute("aria-rowindex", String(at + 2));
    row.setAttribute("aria-selected", String(job.id === this.chosen));
    row.classList.toggle("cursor", job.id === this.cursor);
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.scroll.clientHeight / HEIGHT) - 2);
    const at = this.rows.findIndex((job) => job.id === this.cursor);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -this.rows.length, End: this.rows.length };
    if (event.key === "Enter" && this.cursor !== null) return this.choose(this.cursor);
    const step = steps[event.key];
    if (step === undefined || this.rows.length === 0) return;
    event.preventDefault();
    const to = at < 0 ? 0 : Math.max(0, Math.min(this.rows.length - 1, at + step));
    this.cursor = this.rows[to].id;
    this.reveal(to);
    this.draw();
  }

  /** Marks a job, and brings it into view. */
  mark(job) {
    this.chosen = job;
    const at = this.rows.findIndex((one) => one.id === job);
    if (at >= 0) {
      this.cursor = job;
      this.reveal(at);
    }
    this.draw();
  }

  reveal(at) {
    const head = this.table.tHead.offsetHeight;
    const top = at * HEIGHT;
    const { scrollTop, clientHeight } = this.scroll;
    if (top < scrollTop) this.scroll.scrollTop = top;
    else if (top + HEIGHT + head > scrollTop + clientHeight) this.scroll.scrollTop = top + HEIGHT + head - clientHeight;
  }
}

const known = new WeakMap();

// What a filter looks at.
function text(job) {
  let made = known.get(job);
  if (made === undefined) {
    made = [isOutside(job) ? "" : job.id, job.name, job.user, job.account, job.partition, job.state, job.reason, job.hosts, job.note].join(" ").toLowerCase();
    known.set(job, made);
  }
  return made;
}

export function stateKind(state) {
  if (["ASSEMBLING", "ASKED", "QUEUED"].includes(state)) return "PENDING";
  return ["RUNNING", "PENDING", "SUSPENDED"].includes(state) ? state : "bad";
}

function when(job, now) {
  if (job.state === "PENDING") {
    if (!job.start) return "";
    return job.start > now ? `in ${lasting(job.start - now)}` : "any moment";
  }
  return job.start ? `${lasting(now - job.start)} ago` : "";
}

function holds(job, now) {
  const ends = job.end > now ? `≤ ${lasting(job.end - now)} left` : "";
  return [ends, job.hosts].filter(Boolean).join(" · ");
}

function why(cell, job, words) {
  const reason = job.reason ?? "";
  if (isOutside(job)) {
    cell.title = job.note;
    cell.append(element("b", { text: reason }), element("span", { kind: "soft", text: `: ${job.note}` }));
    return;
  }
  const said = words[reason]?.said ?? reason;
  const rest = said.startsWith(reason) ? said.slice(reason.length) : said;
  cell.title = job.note && job.note !== reason ? `${said} (Slurm: ${job.note})` : said;
  cell.append(element("b", { text: reason }), element("span", { kind: "soft", text: rest }));
}

function write(cell, text) {
  if (cell.textContent !== text) cell.textContent = text;
}

// The room of rows that do not exist.
function pad(row, rows) {
  row.hidden = rows === 0;
  row.firstChild.style.height = `${rows * HEIGHT}px`;
  return row;
}

function padding() {
  const cell = document.createElement("td");
  cell.colSpan = 9;
  const row = element("tr", { kind: "pad" }, cell);
  row.setAttribute("aria-hidden", "true");
  return row;
}
