// An opened run, beside the view: its facts, tasks, output, and Stop.

import * as api from './api.js';
import { ask } from './ask.js';
import { $, announce, badge, el, say } from './dom.js';
import * as log from './log.js';
import * as router from './router.js';
import * as store from './store.js';
import { age, duration, memory, moment, quote, why } from './words.js';

const panel = $('detail');
let name; // or id, as in the address
let id, shown, fetched, opener;

export function start() {
  log.start(() => id);
  $('detail-close').addEventListener('click', router.close);
  panel.addEventListener('keydown', (event) => event.key === 'Escape' && router.close());
  $('stop').addEventListener('click', stop);
}

/** Open the run with this name or id; '' closes what is open. */
export function open(opened) {
  if (opened === name) return;
  if (!name) opener = document.activeElement;
  name = opened;
  id = shown = fetched = null;
  log.stop();
  panel.hidden = !name;
  if (!name) return opener?.focus();
  say($('detail-name'), name);
  for (const part of ['status', 'facts', 'tasks']) $(`detail-${part}`).replaceChildren();
  for (const part of ['error', 'note']) say($(`detail-${part}`), '');
  $('stop').hidden = true;
  $('stop').disabled = false;
  panel.querySelector('.body').scrollTop = 0;
  $('detail-name').focus();
  show();
  if (store.synced && !shown) fetchRemoved(name);
}

// What was removed before the page was opened is not in the stream.
async function fetchRemoved(asked) {
  try {
    const found = await api.status(asked);
    if (asked === name) fetched = found;
    show();
  } catch (error) {
    if (asked === name) say($('detail-error'), error.message);
  }
}

export function show() {
  for (const since of panel.querySelectorAll('[data-since]')) say(since, age(since.dataset.since));
  const service = name && (store.find(name) ?? fetched);
  if (!service || service === shown) return;
  const before = shown?.status;
  shown = service;
  if (id !== service.id) {
    id = service.id;
    log.read();
  }
  say($('detail-name'), service.name);
  $('detail-status').replaceChildren(badge(service.status), ' ', why(service.reason));
  say($('detail-error'), service.error ?? '');
  $('detail-facts').replaceChildren(...facts(service));
  $('detail-tasks').replaceChildren(...tasks(service));
  $('stop').hidden = service.status === 'removed';
  say($('stop'), `${verb()}…`);
  if (!before || before === service.status) return;
  announce(`${service.name} is ${service.status}`);
  log.retry();
}

const verb = () => (['complete', 'failed'].includes(shown.status) ? 'Remove' : 'Stop');

function stop() {
  const asked = id;
  const end = verb() === 'Stop' ? 'is asked to end, killed if it takes over ten seconds, and' : 'has ended, and is';
  ask(`${verb()} ${shown.name}?`, `It ${end} removed. Its exit code and output are kept.`, `${verb()} it`, async () => {
    try {
      await api.stop(asked);
    } catch (error) {
      $('stop').disabled = error.status === 403; // this token may not
      throw error;
    }
    if (asked === id) say($('detail-note'), 'Stop was accepted.');
  });
}

const row = (tag, cells) => el('tr', {}, ...cells.map((cell) => el(tag, {}, cell ?? '–')));

// A task's error has a row of its own, where it is not the service's, told above.
function tasks({ tasks: all, error: told }) {
  if (!all.length) return [];
  const rows = all.flatMap(({ slot, state, node, exit_code: code, updated_at: at, error }) => [
    row('td', [slot, badge(state), node, code, el('span', { 'data-since': at }, age(at))]),
    ...(error && error !== told ? [el('tr', { class: 'error' }, el('td', { colspan: 5 }, error))] : []),
  ]);
  const head = el('thead', {}, row('th', ['Slot', 'State', 'Node', 'Exit', 'Since']));
  return [el('h3', {}, 'Tasks'), el('table', {}, head, el('tbody', {}, ...rows))];
}

function facts(service) {
  const { command, replicas, cpus, timeout, ttl, exit_code: code } = service;
  const tags = Object.entries(service.labels).map((pair) => el('span', { class: 'tag' }, pair.join('=')));
  const all = [
    ['Result', code === null ? null : `exit code ${code}`],
    ['Id', el('code', {}, service.id)],
    ['Type', service.type],
    ['Image', el('code', {}, service.image)],
    ['Command', command ? el('code', {}, command.map(quote).join(' ')) : 'the image’s own'],
    ['Labels', tags],
    ['Owner', service.owner],
    ['Replicas', `${replicas.running} of ${replicas.desired} running, ${replicas.failed} failed`],
    ['Memory', service.memory && memory(service.memory)],
    ['Cores', cpus],
    ['Timeout', timeout && duration(timeout)],
    ['Kept for', ttl && duration(ttl)],
    ...['Created', 'Started', 'Finished', 'Removed'].map((what) => [what, moment(service[`${what.toLowerCase()}_at`])]),
  ];
  const told = all.map(([title, value]) => [title, [value ?? []].flat()]).filter(([, value]) => value.length);
  return told.flatMap(([title, value]) => [el('dt', {}, title), el('dd', {}, ...value)]);
}
