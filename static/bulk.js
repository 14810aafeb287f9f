// Several services at once: which are selected, and how they are stopped.

import * as api from './api.js';
import { ask } from './ask.js';
import { $, el, mark, notice, say } from './dom.js';
import * as store from './store.js';
import { plural } from './words.js';

const AT_ONCE = 4; // calls of POST /stop
const NAMED = 5; // services in the question
export const selected = new Set(); // ids
const everything = el('input', { type: 'checkbox', 'aria-label': 'Select all that match' });
let can, changed, last;

/** onChange() draws the table again. */
export function start(onChange) {
  changed = onChange;
  $('table').tHead.rows[0].append(el('td', { class: 'pick' }, everything));
  everything.addEventListener('change', () => select(everything.checked ? can : []));
  $('selected-none').addEventListener('click', () => select([]));
  $('selected-stop').addEventListener('click', () => stop([...selected].map(store.find)));
  $('stop-matching').addEventListener('click', () => stop(can));
}

/** The box of a row: not a stop of Tab, as the key x does the same. */
export const box = () => el('input', { type: 'checkbox', tabindex: -1 });

/** Select a service or no longer; with `range`, all from the one before. */
export function pick({ id }, on, range) {
  const ids = can.map((service) => service.id);
  const to = ids.indexOf(id);
  const ends = [range && ids.includes(last) ? ids.indexOf(last) : to, to];
  for (const each of ids.slice(Math.min(...ends), Math.max(...ends) + 1)) selected[on ? 'add' : 'delete'](each);
  last = id;
  changed();
}

export function select(services) {
  selected.clear();
  for (const { id } of services) selected.add(id);
  changed();
}

/** Show what can be done with the services that the table shows; `all`: no filter is on. */
export function show(shown, all) {
  can = shown.filter(canStop);
  for (const id of selected) if (!canStop(store.find(id))) selected.delete(id);
  const { size } = selected;
  $('selection').hidden = !size;
  mark(document.body, 'data-selecting', size ? '' : null);
  say($('selection').firstChild, `${size} selected`);
  if (size) say($('selected-stop'), `${verb([...selected].map(store.find))} ${size}…`);
  $('stop-matching').hidden = all || !can.length;
  say($('stop-matching'), `${verb(can)} all ${can.length}…`);
  everything.checked = size > 0 && size >= can.length;
  everything.indeterminate = size > 0 && size < can.length;
}

const canStop = (service) => service && service.status !== 'removed' && service.status !== 'stopping';
const ended = ({ status }) => status === 'complete' || status === 'failed';
const verb = (all) => (all.every(ended) ? 'Remove' : 'Stop');
const names = (all) => all.slice(0, NAMED).map(({ name }) => name).join(', ') + (all.length > NAMED ? ` and ${all.length - NAMED} more` : '');

function stop(all) {
  const over = all.filter(ended).length;
  const how = over ? `${over} of them ended before, and are removed.` : 'Each gets its stop signal, later SIGKILL, and is removed.';
  ask(`${verb(all)} ${plural(all.length, 'service')}?`, `${names(all)}. ${how} Exit codes and output are kept.`, `${verb(all)} ${all.length}`, async () => {
    const refused = await send(all);
    const result = `${plural(all.length - [...refused.values()].flat().length, 'stop')} accepted.`;
    if (!refused.size) return notice(result);
    all = [...refused.values()].flat(); // the button tries these again
    throw new Error([result, ...[...refused].map(([why, them]) => `${names(them)}: ${why}`)].join('\n'));
  });
}

/** Return what was refused: why → services. What is not sent when the question is closed is kept. */
async function send(all) {
  const queue = [...all];
  const refused = new Map();
  const note = (why, service) => refused.set(why, [...(refused.get(why) ?? []), service]);
  const one = async () => {
    for (let service = queue.shift(); service; service = queue.shift()) {
      if (!$('confirm').open) note('not sent', service);
      else await api.stop(service.id).catch((error) => note(error.message, service));
      say($('confirm-text'), `${all.length - queue.length} of ${all.length} sent…`);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, one));
  return refused;
}
