// What the server has told: the queue and the pool as lists in order, kept by whole states and by what changes.
//
// Nothing here touches the page.

// From here on an id is none of Slurm's: the gang has no job (ui/picture.rs).
const OUTSIDE = 0xf0000000;

/** Whether Slurm has no job for it. */
export function isOutside(job) {
  return job.id >= OUTSIDE;
}

/** Whether it waits: in Slurm's queue, or to get there. */
export function waits(job) {
  return job.state === "PENDING" || isOutside(job);
}

/** Rows in order, each with a key. */
export class List {
  constructor(key) {
    this.key = key;
    this.rows = [];
    this.byKey = new Map();
  }

  replace(rows) {
    this.rows = rows;
    this.byKey = new Map(rows.map((row) => [row[this.key], row]));
  }

  /** As ui/delta.rs tells it: rows that are gone, rows that are new or different, and what each moved one comes after. */
  apply({ gone, put, after }) {
    for (const key of gone) this.byKey.delete(key);
    for (const row of put) this.byKey.set(row[this.key], row);
    const moved = new Set(after.map(([key]) => key));
    const next = new Map(after.map(([key, before]) => [before, key]));
    const rows = [];
    const follow = (last) => {
      for (let key = next.get(last); key !== undefined; key = next.get(key)) rows.push(this.byKey.get(key));
    };
    follow(null);
    for (const old of this.rows) {
      const key = old[this.key];
      if (moved.has(key) || !this.byKey.has(key)) continue;
      rows.push(this.byKey.get(key));
      follow(key);
    }
    this.rows = rows;
  }
}

/** The last state, and an event `change` when there is another. */
export class Store extends EventTarget {
  constructor() {
    super();
    this.jobs = new List("id");
    this.nodes = new List("name");
    this.words = {};
    this.head = { cluster: "", looked: 0, age: 0 };
    this.places = new Map();
    this.connected = false;
    this.ahead = 0;
    this.source = null;
  }

  /** Seconds since the epoch by the server's clock. */
  now() {
    return Date.now() / 1000 + this.ahead;
  }

  connect() {
    if (this.source) return;
    const source = new EventSource("events");
    this.source = source;
    source.addEventListener("clock", (event) => {
      this.ahead = Number(event.data) - Date.now() / 1000;
    });
    source.addEventListener("whole", (event) => {
      const { words, jobs, nodes, ...head } = JSON.parse(event.data);
      this.jobs.replace(jobs);
      this.nodes.replace(nodes);
      this.#told(head, words, true, true);
    });
    source.addEventListener("news", (event) => {
      const { words, jobs, nodes, ...head } = JSON.parse(event.data);
      if (jobs) this.jobs.apply(jobs);
      if (nodes) this.nodes.apply(nodes);
      this.#told(head, words, Boolean(jobs), Boolean(nodes));
    });
    source.addEventListener("error", () => {
      this.connected = false;
      // A server that has said no is not asked again by the browser itself.
      if (source.readyState === EventSource.CLOSED && this.source === source) {
        this.source = null;
        setTimeout(() => this.connect(), 5000);
      }
      this.dispatchEvent(new CustomEvent("change", { detail: { jobs: false, nodes: false } }));
    });
  }

  disconnect() {
    this.source?.close();
    this.source = null;
  }

  #told(head, words, jobs, nodes) {
    this.head = head;
    this.connected = true;
    if (words) this.words = words;
    if (jobs || words) this.#number();
    this.dispatchEvent(new CustomEvent("change", { detail: { jobs, nodes } }));
  }

  // The place of each that waits among those of its partition, as `gangway queue` and its Gang have it
  // (core/outlook.rs, `positions`): by priority, then id; whoever stands aside has none, of several partitions the best
  // place counts.
  #number() {
    const queues = new Map();
    for (const job of this.jobs.rows) {
      if (job.state !== "PENDING" || this.words[job.reason]?.aside) continue;
      for (const name of job.partition.split(",")) {
        if (!queues.has(name)) queues.set(name, []);
        queues.get(name).push(job);
      }
    }
    this.places = new Map();
    for (const queue of queues.values()) {
      queue.sort((a, b) => b.priority - a.priority || a.id - b.id);
      queue.forEach(({ id }, at) => this.places.set(id, Math.min(at + 1, this.places.get(id) ?? Infinity)));
    }
  }
}

/** Seconds as people say them: 45s, 12m, 3h05m, 2d04h. */
export function lasting(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  const two = (n) => String(n).padStart(2, "0");
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m`;
  if (s < 86400) return `${Math.floor(s / 3600)}h${two(Math.floor(s / 60) % 60)}m`;
  return `${Math.floor(s / 86400)}d${two(Math.floor(s / 3600) % 24)}h`;
}

/** An element with text in it. Whatever users have named comes in by `text` alone, which is never read as markup. */
export function element(name, { text, kind, title } = {}, ...children) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (title) made.title = title;
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

/** Indexes as ranges: 0-3,6. */
export function ranges(indexes) {
  const out = [];
  for (const n of indexes) {
    const last = out[out.length - 1];
    if (last && last[1] === n - 1) last[1] = n;
    else out.push([n, n]);
  }
  return out.map(([a, b]) => (a === b ? `${a}` : `${a}-${b}`)).join(",");
}
