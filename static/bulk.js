// Several services at once: which are selected, and how they are stopped.

import * as api from './api.js';
import { $, announce, el, mark, say } from './dom.js';
import * as store from './store.js';
import { plural } from './words.js';

const AT_ONCE = 4; // calls of POST /stop
const NAMED = 5; // services in the question
export const selected = new Set(); // ids
const dialog = $('bulk');
const [title, text, list, buttons] = dialog.children;
const everything = el('input', { type: 'checkbox', 'aria-label': 'Select all that match' });
let listed, changed, last;
let going = [];

/** `shown()` returns the services that the table shows; onChange() draws it again. */
export function start(shown, onChange) {
  [listed, changed] = [shown, onChange];
  $('table').tHead.rows[0].append(el('td', { class: 'pick' }, everything));
  everything.addEventListener('change', () => selectAll(everything.checked));
  $('selected-all').addEventListener('click', () => selectAll(true));
  $('selected-none').addEventListener('click', () => selectAll(false));
  $('selected-stop').addEventListener('click', () => ask(chosen()));
  $('stop-matching').addEventListener('click', () => ask(listed().filter(canStop)));
  buttons.lastChild.addEventListener('click', send);
  buttons.firstChild.addEventListener('click', () => dialog.close());
}

/** A row's: not a stop of Tab, as the key x does the same. */
export const box = () => el('input', { type: 'checkbox', tabindex: -1 });

/** Select a service or no longer; with `range`, all from the one before. */
export function pick({ id }, on, range) {
  const ids = listed().map((service) => service.id);
  const [from, to] = [range && ids.includes(last) ? ids.indexOf(last) : ids.indexOf(id), ids.indexOf(id)].sort((a, b) => a - b);
  for (const each of ids.slice(from, to + 1)) selected[on ? 'add' : 'delete'](each);
  last = id;
  changed();
  announce(`${selected.size} selected`);
}

export function selectAll(on) {
  selected.clear();
  if (on) for (const service of listed().filter(canStop)) selected.add(service.id);
  changed();
}

/** Show the bar of the selection; `all`: no filter is on. */
export function show(all) {
  for (const id of selected) if (!store.services.has(id) || !canStop(store.services.get(id))) selected.delete(id);
  const can = listed().filter(canStop);
  $('selection').hidden = !selected.size;
  mark(document.body, 'data-selecting', selected.size ? '' : null);
  say($('selection').firstElementChild, `${selected.size} selected`);
  say($('selected-all'), `Select all ${can.length}`);
  $('selected-all').hidden = selected.size >= can.length;
  say($('selected-stop'), `${verb(chosen())} ${selected.size}…`);
  $('stop-matching').hidden = all || !can.length;
  say($('stop-matching'), `${verb(can)} all ${can.length}…`);
  everything.checked = selected.size > 0 && selected.size >= can.length;
  everything.indeterminate = selected.size > 0 && !everything.checked;
}

const chosen = () => [...selected].map((id) => store.services.get(id)).filter(Boolean);
const canStop = ({ status }) => status !== 'removed' && status !== 'stopping';
const ended = ({ status }) => status === 'complete' || status === 'failed';
const verb = (all) => (all.every(ended) ? 'Remove' : 'Stop');

function names(all) {
  const more = all.length - NAMED;
  return all.slice(0, NAMED).map(({ name }) => name).join(', ') + (more > 0 ? ` and ${more} more` : '');
}

function ask(all) {
  going = all;
  const over = all.filter(ended).length;
  say(title, `${verb(all)} ${plural(all.length, 'service')}?`);
  say(text, `${names(all)}. ${over ? `${over === all.length ? 'All' : over} of them ended before, and are removed.` : 'They get their stop signal, then SIGKILL after the grace period, and are removed.'} Exit codes and output are kept.`);
  list.replaceChildren();
  say(buttons.firstChild, 'Keep them');
  say(buttons.lastChild, `${verb(all)} ${all.length}`);
  buttons.lastChild.hidden = false;
  dialog.showModal();
}

async function send() {
  const queue = [...going];
  const refused = new Map(); // why → services
  let sent = 0;
  buttons.lastChild.hidden = true;
  say(buttons.firstChild, 'Cancel the rest');
  buttons.firstChild.focus();
  const one = async () => {
    while (queue.length && dialog.open) {
      const service = queue.shift();
      const error = await api.stop(service.id).then(() => selected.delete(service.id) && null, (problem) => problem.message);
      if (error) refused.set(error, [...(refused.get(error) ?? []), service]);
      say(title, `${(sent += 1)} of ${going.length} sent`);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, one));
  const failed = [...refused.values()].flat().length;
  const result = [`${plural(sent - failed, 'stop')} accepted`, failed && `${failed} refused`, queue.length && `${queue.length} not sent`];
  say(title, result.filter(Boolean).join(', '));
  announce(title.textContent);
  list.replaceChildren(...[...refused].map(([why, all]) => el('li', {}, `${names(all)}: ${why}`)));
  say(buttons.firstChild, 'Close');
  changed();
}
