// The last changes, the newest first, what repeats in one line; and a line of how many each minute.

import { $, arrange, badge, el, mark, nodeShape, say } from './dom.js';
import * as router from './router.js';
import * as store from './store.js';
import { clock, moment, why } from './words.js';

const STEP = 40; // lines that are drawn at first, and added when the last one comes in sight
const list = $('timeline');
const end = el('li', { class: 'hint' }); // in sight: more lines are wanted
const watcher = new IntersectionObserver(([{ isIntersecting }]) => isIntersecting && reach(limit + STEP));
let rows = new Map(); // what repeats → its line
let words = [];
let [tasks, paused, below] = [false, false, false]; // below: the list is below the pointer
let kept, keptUntil; // all changes, as of the pause
let of, drawn; // which changes are drawn, and up to which
let limit = STEP;

export function start() {
  $('changes-find').addEventListener('input', () => refine({ change: $('changes-find').value }));
  $('changes-tasks').addEventListener('click', () => refine({ tasks: tasks ? '' : '1' }));
  $('changes-pause').addEventListener('click', () => {
    paused = !paused;
    mark($('changes-pause'), 'aria-pressed', paused);
    say($('changes-pause'), paused ? 'Resume' : 'Pause');
    show();
  });
  for (const name of ['pointerenter', 'pointerleave']) list.addEventListener(name, hover);
  list.addEventListener('scroll', () => list.scrollTop || reach(STEP), { passive: true });
}

// All lines move at each change: those out of sight are left out.
function reach(lines) {
  if (limit === lines) return;
  [limit, drawn] = [lines, null];
  show();
}

function hover({ type, pointerType }) {
  below = type === 'pointerenter' && pointerType === 'mouse';
  show();
}

function refine(query) {
  router.refine(query);
  enter(router.here().query);
  show();
}

/** Take over the filters of an address: `tasks` and `change`. */
export function enter({ tasks: also, change = '' }) {
  tasks = also === '1';
  mark($('changes-tasks'), 'aria-pressed', tasks);
  if ($('changes-find').value !== change) $('changes-find').value = change;
  words = change.toLowerCase().split(/\s+/);
  drawn = null;
}

/** Draw what is new, but not below the pointer, and not while it is paused. */
export function show() {
  draw(store.perMinute());
  const isHeld = paused || below;
  if (!isHeld || of !== store.changes) kept = null; // or another has signed in
  of = store.changes;
  if (isHeld && !kept) [kept, keptUntil] = [everything(), store.seen];
  const fresh = kept ? everything().filter((change) => change.number > keptUntil && isWanted(change)).length : 0;
  say($('changes-note'), fresh ? `${fresh} new` : '');
  const until = kept ? keptUntil : store.seen;
  if (drawn === until) return;
  drawn = until;
  const had = rows;
  rows = new Map();
  const groups = [...Map.groupBy((kept ?? everything()).filter(isWanted), subject)];
  for (const [repeated, all] of groups.slice(0, limit)) {
    const row = had.get(repeated) ?? el('li', { 'data-topic': all[0].topic });
    had.delete(repeated);
    rows.set(repeated, row);
    fill(row, all);
  }
  for (const row of had.values()) row.remove();
  arrange(list, rows.values());
  showEnd(groups.length - rows.size);
}

function showEnd(more) {
  watcher.disconnect();
  const nothing = store.changes.length ? 'No change has these words.' : 'Nothing has changed yet. What happens shows up here.';
  say(end, rows.size ? `${more} more` : nothing);
  if (rows.size && !more) return end.remove();
  list.append(end);
  if (more) watcher.observe(end); // anew: tells it again where it is still in sight
}

// In the order of time, also what was told late.
const everything = () => [...store.changes, ...store.taskChanges].sort((a, b) => b.at - a.at || b.number - a.number);

function isWanted({ topic, name, is, reason, task }) {
  if (topic === 'task' && !tasks) return false;
  const text = [name, is, why(reason), task?.node, task?.error].join(' ').toLowerCase();
  return words.every((word) => text.includes(word));
}

const subject = ({ topic, id, name, is, task, number }) => (topic === 'gap' ? number : [topic, id ?? name, task?.slot, is].join());

function fill(row, all) {
  const [change] = all;
  const { topic, is, time } = change;
  const shown = [change.number, all.length].join();
  if (row.shown === shown) return;
  row.shown = shown;
  const at = el('time', { datetime: time, title: moment(time) }, clock(time));
  const sign = badge('', topic === 'node' ? nodeShape(is) : is);
  const times = all.reduce((sum, each) => sum + (each.times ?? 1), 0);
  const earlier = all.slice(1).map((each) => clock(each.time));
  const open = row.querySelector('details')?.open;
  const more = earlier.length ? [el('details', { open }, el('summary', {}, `× ${times}`), earlier.join(', '))] : [];
  row.replaceChildren(at, sign, el('p', {}, ...sentence(change), times > 1 && !earlier.length ? ` × ${times}` : ''), ...more);
}

function sentence({ topic, id, name, is, reason, code, task }) {
  if (topic === 'gap') return ['Changes were missed here. What you see is up to date.'];
  if (topic === 'node') return ['node ', el('b', {}, name), ` is ${is}`];
  const link = el('a', { class: 'plain', title: name, href: router.href('runs', store.address({ id, name })) }, el('bdi', {}, name));
  if (task) {
    const where = task.node ? ` on ${task.node}` : '';
    return [link, ` task ${task.slot ?? ''} ${is}${where}`, task.error ? `: ${task.error}` : ''];
  }
  const exit = code === null || code === undefined ? '' : `, ${is === 'restarted' ? 'last ' : ''}exit ${code}`;
  return [link, ' ', el('b', {}, is), exit, why(reason) && `, ${why(reason)}`];
}

function draw(counts) {
  const top = Math.max(4, ...counts);
  const points = counts.map((count, i) => `${i},${(19 - (18 * count) / top).toFixed(1)}`).join('L');
  mark($('spark').firstChild, 'd', `M-1,30L${points}L30,30`); // its ends are out of sight
  say($('rate'), counts.at(-1));
  mark($('spark'), 'aria-label', `${counts.at(-1)} changes in the last minute, at most ${Math.max(...counts)} in one`);
}
