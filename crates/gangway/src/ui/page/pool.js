// The pool as one picture: each node a cell, each GPU a square, by who holds it. Shape says what colour says.

import { element, ranges } from "./store.js";

export class Pool {
  constructor(store, choose) {
    this.store = store;
    this.choose = choose;
    this.canvas = document.getElementById("nodes");
    this.frame = document.getElementById("pool");
    this.told = document.getElementById("node-told");
    this.count = document.getElementById("pool-count");
    this.tip = document.getElementById("tip");
    this.colour = document.getElementById("colour");
    this.chosen = null;
    this.at = -1;
    this.cells = [];
    this.layout = { across: 1, width: 1, height: 1, square: 8, columns: 4, gap: 1 };
    new ResizeObserver(() => this.soon()).observe(this.frame);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.soon());
    this.colour.addEventListener("change", () => this.soon());
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => (this.tip.hidden = true));
    this.canvas.addEventListener("click", (event) => this.press(event));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("blur", () => this.soon());
  }

  soon() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.draw();
    });
  }

  mark(job) {
    this.chosen = job;
    this.soon();
  }

  /** Takes up what has changed. */
  refresh() {
    const nodes = this.store.nodes.rows;
    this.cells = nodes.map(cell);
    const gpus = nodes.reduce((sum, node) => sum + node.gpus, 0);
    this.count.textContent = `${nodes.length.toLocaleString("en")} nodes, ${gpus.toLocaleString("en")} GPUs`;
    this.at = Math.min(this.at, nodes.length - 1);
    this.draw();
    if (this.at >= 0) this.tell(this.at);
  }

  // As large as fits without scrolling.
  measure() {
    const width = Math.max(120, this.frame.clientWidth - 24);
    const height = Math.max(80, this.frame.clientHeight - 12);
    const most = this.cells.reduce((max, one) => Math.max(max, one.squares.length), 1);
    const rows = most > 2 ? 2 : 1;
    const columns = Math.ceil(most / rows);
    for (let square = 16; ; square--) {
      const gap = square > 5 ? 2 : 1;
      const margin = square > 5 ? 3 : square > 4 ? 2 : 1;
      const size = { width: columns * (square + gap) - gap + 2 * margin, height: rows * (square + gap) - gap + 2 * margin };
      const step = square > 5 ? 4 : 2;
      const across = Math.max(1, Math.floor((width + step) / (size.width + step)));
      const total = Math.ceil(this.cells.length / across) * (size.height + step);
      if (total <= height || square === 3) {
        this.layout = { ...size, across, square, gap, margin, step, columns, total, full: width };
        return;
      }
    }
  }

  draw() {
    this.measure();
    const { total, full } = this.layout;
    const scale = devicePixelRatio || 1;
    const [width, height] = [Math.round(full * scale), Math.round(Math.max(1, total) * scale)];
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
      this.canvas.style.width = `${full}px`;
      this.canvas.style.height = `${Math.max(1, total)}px`;
    }
    const brush = this.canvas.getContext("2d");
    brush.setTransform(scale, 0, 0, scale, 0, 0);
    brush.clearRect(0, 0, full, total);
    const inks = colours();
    // Whoever waits holds nothing here: then nothing is paler than the rest.
    const { chosen } = this;
    this.paler = chosen !== null && this.cells.some((one) => one.squares.some((held) => held.holder?.job === chosen));
    this.cells.forEach((one, at) => this.cell(brush, inks, one, at));
    legend(inks);
  }

  corner(at) {
    const { across, width, height, step } = this.layout;
    return [(at % across) * (width + step), Math.floor(at / across) * (height + step)];
  }

  cell(brush, inks, one, at) {
    const { width, height, margin, square, gap, columns } = this.layout;
    const [x, y] = this.corner(at);
    brush.globalAlpha = 1;
    brush.fillStyle = inks.raised;
    brush.fillRect(x, y, width, height);
    const focus = at === this.at && document.activeElement === this.canvas;
    brush.strokeStyle = focus ? inks.ink : one.out ? inks.out : inks.line;
    brush.lineWidth = focus ? 2 : 1;
    brush.strokeRect(x + 0.5, y + 0.5, width - 1, height - 1);
    one.squares.forEach((held, index) => {
      const left = x + margin + (index % columns) * (square + gap);
      const top = y + margin + Math.floor(index / columns) * (square + gap);
      const mine = held.holder && held.holder.job === this.chosen;
      brush.globalAlpha = this.paler && !mine ? 0.28 : 1;
      paint(brush, inks, held.kind, left, top, square, this.tint(held.holder, inks));
      if (mine) {
        brush.strokeStyle = inks.ink;
        brush.lineWidth = 1;
        brush.strokeRect(left - 0.5, top - 0.5, square + 1, square + 1);
      }
    });
    brush.globalAlpha = 1;
  }

  // Nothing for the colour of the kind.
  tint(holder, inks) {
    if (!holder || this.colour.value === "kind") return null;
    const of = this.colour.value === "job" ? `job ${holder.job}` : `user ${holder.user}`;
    let hash = 2166136261;
    for (const letter of of) hash = Math.imul(hash ^ letter.codePointAt(0), 16777619);
    return `hsl(${(hash >>> 0) % 360} ${inks.dark ? "62% 62%" : "58% 44%"})`;
  }

  find(event) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const { across, width, height, step, margin, square, gap, columns } = this.layout;
    const [column, row] = [Math.floor(x / (width + step)), Math.floor(y / (height + step))];
    const at = row * across + column;
    if (column >= across || x < 0 || y < 0 || at >= this.cells.length) return null;
    const [dx, dy] = [x - column * (width + step) - margin, y - row * (height + step) - margin];
    const index = Math.floor(dy / (square + gap)) * columns + Math.floor(dx / (square + gap));
    return { at, held: this.cells[at].squares[index] ?? null };
  }

  point(event) {
    const found = this.find(event);
    this.tip.hidden = !found;
    if (!found) return;
    const node = this.store.nodes.rows[found.at];
    const lines = describe(node);
    this.tip.replaceChildren(element("b", { text: `${node.name} · ${node.state.toLowerCase()}` }), ...lines.map((line) => element("span", { text: line })));
    const { offsetWidth, offsetHeight } = this.tip;
    this.tip.style.left = `${Math.min(event.clientX + 14, innerWidth - offsetWidth - 8)}px`;
    this.tip.style.top = `${event.clientY + 18 + offsetHeight > innerHeight ? event.clientY - offsetHeight - 10 : event.clientY + 18}px`;
  }

  press(event) {
    const found = this.find(event);
    if (!found) return;
    this.at = found.at;
    this.tell(found.at);
    this.choose(found.held?.holder?.job ?? null);
  }

  key(event) {
    const { across } = this.layout;
    const last = this.cells.length - 1;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across, Home: -last - 1, End: last + 1 };
    if (last < 0) return;
    if (event.key === "Enter" && this.at >= 0) {
      const jobs = [...new Set(this.store.nodes.rows[this.at].holders.map((one) => one.job))];
      if (jobs.length) this.choose(jobs[(jobs.indexOf(this.chosen) + 1) % jobs.length]);
      return;
    }
    const step = steps[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const to = this.at < 0 ? 0 : this.at + step;
    this.at = Math.abs(step) > last ? (step < 0 ? 0 : last) : to < 0 || to > last ? this.at : to;
    this.tell(this.at);
    this.draw();
    const [, top] = this.corner(this.at);
    if (top < this.frame.scrollTop) this.frame.scrollTop = top;
    else if (top + this.layout.height > this.frame.scrollTop + this.frame.clientHeight) this.frame.scrollTop = top + this.layout.height - this.frame.clientHeight + 12;
  }

  tell(at) {
    const node = this.store.nodes.rows[at];
    const said = `${node.name}, ${node.state.toLowerCase()}: ${describe(node).join("; ")}`;
    if (this.told.textContent !== said) this.told.textContent = said;
  }
}

const out = /DOWN|DRAIN|NOT_RESPONDING|FAIL|ERROR|MAINT/;

/** Whether a node takes no jobs. */
export function isOut(node) {
  return out.test(node.state);
}

/** What a holder is to whoever looks. */
export function holds(holder) {
  if (holder.kind === "batch") return "batch";
  return holder.pod ? "gang" : "unseated";
}

// One square for each GPU; a node without any has one for its CPUs.
function cell(node) {
  const idle = isOut(node) ? "out" : "idle";
  if (node.gpus === 0) {
    const holder = node.holders[0];
    return { out: isOut(node), squares: [holder ? { kind: holds(holder), holder } : { kind: idle }] };
  }
  const squares = Array.from({ length: node.gpus }, () => null);
  for (const index of node.free) if (index < node.gpus) squares[index] = { kind: idle };
  for (const holder of node.holders) {
    for (const index of holder.gpus ?? []) if (index < node.gpus) squares[index] = { kind: holds(holder), holder };
  }
  // Slurm only counts them: they are of somebody here, in no order that is known.
  const counted = node.holders.filter((holder) => !holder.gpus);
  const only = counted.length === 1 ? counted[0] : null;
  const rest = only ? { kind: holds(only), holder: only } : { kind: isOut(node) ? "out" : "counted" };
  return { out: isOut(node), squares: squares.map((one) => one ?? rest) };
}

function describe(node) {
  const lines = node.holders.map((one) => {
    const which = one.gpus ? `GPU ${ranges(one.gpus)}: ` : "";
    const who = one.kind === "batch" ? `${one.name} (sbatch ${one.job})` : one.pod ? `${one.name}, pod ${one.pod}` : `${one.name}, its pods are not seated yet`;
    return `${which}${who}, ${one.user}`;
  });
  if (node.free.length) lines.push(`GPU ${ranges(node.free)}: ${isOut(node) ? "out of service" : "idle"}`);
  if (node.reason) lines.push(node.reason);
  if (node.cpus) lines.push(`${node.cpusTaken} of ${node.cpus} CPUs taken`);
  return lines;
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  const names = ["gang", "batch", "idle", "out", "panel", "raised", "ink", "line", "soft"];
  const inks = Object.fromEntries(names.map((name) => [name, of(name)]));
  inks.dark = matchMedia("(prefers-color-scheme: dark)").matches;
  return inks;
}

// Full: pods. A frame: pods not seated. A cut corner: sbatch. Pale: idle. A stroke across: out of service.
function paint(brush, inks, kind, x, y, size, tint) {
  const line = Math.max(1, Math.round(size / 7));
  switch (kind) {
    case "gang":
      brush.fillStyle = tint ?? inks.gang;
      brush.fillRect(x, y, size, size);
      break;
    case "unseated":
      brush.strokeStyle = tint ?? inks.gang;
      brush.lineWidth = line;
      brush.strokeRect(x + line / 2, y + line / 2, size - line, size - line);
      break;
    case "batch":
      brush.fillStyle = tint ?? inks.batch;
      brush.beginPath();
      brush.moveTo(x + size * 0.5, y);
      brush.lineTo(x + size, y);
      brush.lineTo(x + size, y + size);
      brush.lineTo(x, y + size);
      brush.lineTo(x, y + size * 0.5);
      brush.fill();
      break;
    case "counted":
      brush.fillStyle = inks.soft;
      brush.fillRect(x, y, size, size);
      break;
    case "out":
      brush.strokeStyle = inks.out;
      brush.lineWidth = line;
      brush.beginPath();
      brush.moveTo(x, y + size);
      brush.lineTo(x + size, y);
      brush.stroke();
      break;
    default:
      brush.fillStyle = inks.idle;
      brush.fillRect(x, y, size, size);
  }
}

function legend(inks) {
  for (const canvas of document.querySelectorAll(".legend canvas")) {
    const brush = canvas.getContext("2d");
    brush.setTransform(2, 0, 0, 2, 0, 0);
    brush.clearRect(0, 0, 12, 12);
    paint(brush, inks, canvas.dataset.key, 1, 1, 10, null);
  }
}
