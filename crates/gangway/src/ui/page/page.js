// The page: takes what the store is told and has queue, pool and life drawn. Read-only: it asks and never sends.

import { Life } from "./life.js";
import { Pool, holds, isOut } from "./pool.js";
import { Queue } from "./queue.js";
import { Store, element, lasting } from "./store.js";

const STALE = 15;
const AWAY = 60_000;

const at = (id) => document.getElementById(id);
const store = new Store();
const queue = new Queue(store, choose);
const pool = new Pool(store, choose);
const life = new Life(store, choose);

// For whoever looks with the browser's tools.
window.gangway = store;

let filled = false;

store.addEventListener("change", ({ detail }) => {
  at("cluster").textContent = store.head.cluster;
  document.title = store.head.cluster ? `${store.head.cluster} · gangway` : "gangway";
  // Times go on where rows do not.
  if (detail.jobs || !filled) queue.refresh();
  else queue.soon();
  if (detail.nodes || !filled) pool.refresh();
  if (detail.jobs || detail.nodes || !filled) figures();
  if (detail.jobs) life.refresh();
  age();
  if (!filled && store.head.looked > 0) {
    filled = true;
    if (location.hash) address();
    // For whoever measures: the frame after this one has been painted with all in it.
    requestAnimationFrame(() => requestAnimationFrame(() => performance.mark("filled")));
  }
});

function figures() {
  const jobs = store.jobs.rows;
  const waiting = jobs.reduce((sum, job) => sum + (job.state === "PENDING" ? 1 : 0), 0);
  const by = { gang: 0, unseated: 0, batch: 0, idle: 0, out: 0 };
  let all = 0;
  let nodesOut = 0;
  for (const node of store.nodes.rows) {
    all += node.gpus;
    const down = isOut(node);
    if (down) nodesOut += 1;
    by[down ? "out" : "idle"] += node.free.length;
    let named = node.free.length;
    for (const holder of node.holders) {
      const count = holder.gpus?.length ?? 0;
      by[holds(holder)] += count;
      named += count;
    }
    // Those that Slurm only counts.
    const rest = Math.max(0, node.gpus - named);
    if (rest) by[node.holders.length ? holds(node.holders[0]) : down ? "out" : "idle"] += rest;
  }
  const held = by.gang + by.unseated + by.batch;
  const number = (n) => n.toLocaleString("en");
  at("running").textContent = number(jobs.length - waiting);
  at("waiting").textContent = number(waiting);
  at("gpus").textContent = number(held);
  at("gpus-of").textContent = `of ${number(all)}`;
  at("idle").textContent = number(by.idle);
  at("out").textContent = nodesOut === 1 ? "1 node" : `${number(nodesOut)} nodes`;
  const share = (n) => (all ? (100 * n) / all : 0);
  const names = { gang: "pods", unseated: "pods not seated yet", batch: "sbatch", out: "out of service" };
  at("meter").replaceChildren(...Object.keys(names).filter((kind) => by[kind]).map((kind) => {
    const line = element("i", { kind, title: `${names[kind]}: ${number(by[kind])} GPUs` });
    line.style.width = `${share(by[kind])}%`;
    return line;
  }));
  const said = Object.entries(names).map(([kind, name]) => `${name} ${by[kind]}`);
  at("meter").setAttribute("aria-label", `GPUs: ${[...said, `idle ${by.idle}`].join(", ")}`);
}

// How old what is seen is, and why, in a sentence.
function age() {
  const { looked, age: behind, problem } = store.head;
  const old = looked ? store.now() - looked + behind : 0;
  const stale = !store.connected || Boolean(problem) || (looked > 0 && old > STALE);
  const since = looked ? ` What you see is ${lasting(old)} old.` : " Nothing has been seen yet.";
  let said = "";
  if (!store.connected && (filled || problem)) said = `This page has lost its server and tries again.${since}`;
  else if (problem) said = `The scheduler's door does not answer: ${problem}.${since}`;
  else if (stale && looked) said = `No news has come.${since}`;
  const label = at("age").querySelector("span");
  label.textContent = looked ? (old < 1.5 ? "live" : `${lasting(old)} ago`) : store.connected ? "no answer yet" : "connecting …";
  at("age").classList.toggle("stale", stale);
  document.body.classList.toggle("stale", stale && looked > 0);
  if (at("problem").textContent !== said) at("problem").textContent = said;
  at("problem").hidden = said === "";
}

/** Shows the life of a job, or of none. The address keeps it, so that it can be sent to somebody. */
function choose(job) {
  const hash = job === null ? "" : `#job=${job}`;
  if (location.hash !== hash) history.replaceState(null, "", hash || location.pathname + location.search);
  // First, for it takes room from the others.
  life.open(job);
  queue.mark(job);
  pool.mark(job);
}

function address() {
  const job = /^#job=(\d+)$/.exec(location.hash)?.[1];
  choose(job ? Number(job) : null);
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && life.job !== null) choose(null);
  if (event.key === "/" && event.target !== queue.filter) {
    event.preventDefault();
    queue.filter.focus();
    queue.filter.select();
  }
});

// Whoever does not look costs nothing.
let away;
document.addEventListener("visibilitychange", () => {
  clearTimeout(away);
  if (document.hidden) away = setTimeout(() => store.disconnect(), AWAY);
  else store.connect();
});

addEventListener("hashchange", address);
setInterval(age, 1000);
store.connect();
