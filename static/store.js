// What the stream has told: services, nodes, the last changes, events per minute.

export const STATUSES = ['pending', 'preparing', 'running', 'complete', 'failed', 'stopping', 'unknown', 'removed'];
const MINUTES = 30; // from end to end of the line in index.html
const SLOT = 10_000; // milliseconds: a sixth of a minute
const MAX_CHANGES = 200;
const MAX_REMOVED = 500;
const MANY_TASKS = 20; // of a service with more, a task's event lists that task alone
const LOOP = ['pending', 'preparing', 'running', 'failed']; // what a service that is restarted goes through
const ENDED = new Set(['complete', 'failed', 'shutdown', 'rejected', 'orphaned', 'remove']);

export const services = new Map();
const named = new Map(); // name → id of the newest of that name
export const nodes = new Map();
export let changes = []; // of services and nodes, what was told last first
export let taskChanges = [];
export let seen = 0; // changes so far
export let stale = null; // since when the engine or the journal is away
export let synced = false; // whether a snapshot has come
const held = new Map(); // node id → MiB and cores of its active tasks
const told = new Map(); // the same, when the node's own numbers were told
const read = new Set(); // cursors
const rate = new Map(); // slot → events

/** Return the service with this id or name. */
export const find = (name) => services.get(name) ?? services.get(named.get(name));

/** Return what names this service in an address: its name, or its id where a newer one has the name. */
export const address = ({ id, name }) => (named.get(name) === id ? name : id);

export const isActive = (task) => !ENDED.has(task.state);

/** Keeps what a frame of the stream says. */
export function take(frame) {
  if (frame.type === 'snapshot') snapshot(frame);
  if (frame.type === 'event') happened(frame.event);
  if (frame.type === 'gap') note({ topic: 'gap', is: 'gap', time: new Date().toISOString() });
  if (frame.type === 'heartbeat') stale = frame.stale_since ?? null;
}

export function forget() {
  for (const each of [services, named, nodes, read, rate]) each.clear();
  [changes, taskChanges] = [[], []];
  stale = null;
  synced = false;
}

/** MiB and cores reserved on a node: what it said, and what has come and gone since. */
export function reserved({ id, reserved: said }) {
  const now = onto(id);
  const then = told.get(id) ?? now;
  return [said.memory, said.cpus].map((number, i) => Math.max(0, number + now[i] - then[i]));
}

/** Events in each of the last minutes; the last is the sixty seconds until now. */
export function perMinute() {
  const now = Math.floor(Date.now() / SLOT);
  const counts = new Array(MINUTES).fill(0);
  for (const [slot, number] of rate) {
    const ago = Math.floor((now - slot) / 6);
    if (ago < MINUTES) counts[MINUTES - 1 - ago] += number;
    else rate.delete(slot);
  }
  return counts;
}

export function counts() {
  const found = Object.fromEntries(STATUSES.map((status) => [status, 0]));
  for (const { status } of services.values()) found[status] += 1;
  return found;
}

function snapshot(frame) {
  for (const each of [services, named, nodes, held]) each.clear();
  for (const service of frame.services) {
    put(service);
    hold(service, 1);
  }
  for (const node of frame.nodes) putNode(node);
  if (!changes.length) recall();
  synced = true;
  trim();
}

function happened({ id, type, subject, time, data }) {
  if (read.has(id)) return;
  read.add(id);
  if (read.size > 2 * MAX_CHANGES) read.delete(read.values().next().value);
  count(Date.now());
  const [, , topic, word] = type.split('.');
  if (topic === 'function') return;
  if (topic !== 'node') return changed(data, topic, word, time);
  putNode(data);
  if (word === 'removed') nodes.delete(subject);
  note({ topic, is: word === 'updated' ? data.availability : word, name: data.hostname, time });
}

function put(service) {
  const { id, name, created_at: created } = service;
  services.set(id, service);
  const other = services.get(named.get(name)); // the end of an older one may be told after the start of a newer one
  if (!(Date.parse(other?.created_at) > Date.parse(created))) named.set(name, id);
}

function putNode(node) {
  nodes.set(node.id, node);
  told.set(node.id, onto(node.id));
}

function changed({ task, ...service }, topic, word, time) {
  const { id, name, status, reason, exit_code: code } = service;
  const before = services.get(id);
  if (before && task && service.replicas.desired > MANY_TASKS && service.tasks.length === 1) {
    service.tasks = [...before.tasks.filter((one) => one.id !== task.id && one.slot !== task.slot), task];
  }
  if (before) hold(before, -1);
  hold(service, 1);
  put({ labels: {}, command: null, ...before, ...service }); // which a task's event does not tell
  if (status === 'removed') trim();
  const again = before ? service.restarts - before.restarts : 0;
  if (again > 0) note({ topic: 'service', id, name, is: 'restarted', time, code: service.last_exit?.exit_code, times: again });
  const loops = service.restarts && !reason && status !== 'failed' && LOOP.includes(status) && LOOP.includes(before?.status);
  if (task) note({ topic, id, name, is: task.state, time, task });
  else if (!loops && (word !== 'updated' || !service.result || before?.result))
    note({ topic, id, name, is: word === 'updated' ? status : word, time, reason, code });
}

const onto = (id) => held.get(id) ?? [0, 0];

function hold({ status, tasks, memory, cpus }, sign) {
  for (const task of status === 'removed' ? [] : tasks) {
    const [mib, cores] = onto(task.node_id);
    if (isActive(task)) held.set(task.node_id, [mib + sign * memory, cores + sign * cpus]);
  }
}

function count(at) {
  const slot = Math.floor(Math.min(at, Date.now()) / SLOT); // clocks differ
  rate.set(slot, (rate.get(slot) ?? 0) + 1);
}

function note(change) {
  const list = change.topic === 'task' ? taskChanges : changes;
  seen += 1;
  list.unshift({ ...change, at: Date.parse(change.time), number: seen });
  list.length = Math.min(list.length, MAX_CHANGES);
}

// A snapshot has starts and ends. By Docker's times a short one may end first.
function recall() {
  const known = [];
  for (const { id, name, status, reason, exit_code: code, restarts: times, last_exit: last, ...at } of services.values()) {
    const add = (is, time, more) => time && known.push({ topic: 'service', id, name, is, time, ...more });
    add('created', at.created_at);
    add('running', at.started_at && [at.started_at, at.finished_at].sort()[0]);
    if (times) add('restarted', last?.finished_at, { times, code: last?.exit_code });
    if (ENDED.has(status)) add(status, at.finished_at, { reason, code });
    add('removed', at.removed_at);
  }
  known.sort((a, b) => Date.parse(a.time) - Date.parse(b.time));
  for (const { time } of known) count(Date.parse(time));
  known.slice(-MAX_CHANGES).forEach(note);
}

// A page that stays open keeps the newest of what was removed.
function trim() {
  const removed = [...services.values()].filter(({ status }) => status === 'removed');
  if (removed.length <= MAX_REMOVED) return;
  removed.sort((a, b) => Date.parse(b.removed_at) - Date.parse(a.removed_at));
  for (const { id, name } of removed.slice(MAX_REMOVED * 0.9)) {
    services.delete(id);
    if (named.get(name) === id) named.delete(name);
  }
}
