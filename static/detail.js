// An opened run, beside the view: why it is as it is, its output, tasks and facts, and what can be done with it.

import * as api from './api.js';
import { ask } from './ask.js';
import { $, announce, badge, copy, el, mark, say } from './dom.js';
import * as form from './form.js';
import { link } from './lists.js';
import * as log from './log.js';
import { isBad, reason, restarted, short, spent } from './reason.js';
import * as resize from './resize.js';
import * as router from './router.js';
import * as store from './store.js';
import { age, memory, moment, quote, span } from './words.js';

const DELIVERY = 5000; // milliseconds after an end: by then its callback was tried
const panel = $('detail');
const drawn = new Map(); // part → what it shows, as JSON: focus and selection stay in what has not changed
let name; // or id, as in the address
let id, shown, fetched, opener, stepped, listed;
let started = {}; // {id, warnings} of the last run that was started here
let denied = {}; // what this token may not: run, stop → the server's reason

/** inView() returns the runs in the order in which the view shows them. */
export function start(inView) {
  listed = inView;
  log.start(() => id);
  resize.start();
  const buttons = { 'detail-close': router.close, 'detail-previous': () => step(-1), 'detail-next': () => step(1), 'detail-copy': share, again, edit: () => edit(), stop };
  for (const [button, act] of Object.entries(buttons)) $(button).addEventListener('click', act);
  setInterval(() => name && show(), 1000);
}

/** Open the run with this name or id; '' closes what is open. */
export function open(opened) {
  if (!store.synced) denied = {};
  if (opened === name) return;
  const last = shown;
  const inside = name && panel.contains(document.activeElement);
  if (!inside) [opener, stepped] = [document.activeElement, false];
  name = opened;
  id = shown = fetched = null;
  log.stop();
  panel.hidden = !name;
  if (!name) return leave(last);
  say($('detail-name'), name);
  drawn.clear();
  for (const part of ['status', 'error', 'warnings', 'facts', 'tasks', 'attempts', 'spent', 'restarts', 'note']) $(`detail-${part}`).replaceChildren();
  for (const part of panel.querySelectorAll('.body > details, footer button')) part.hidden = true;
  panel.querySelector('.body').scrollTop = 0;
  if (!inside) $('detail-name').focus();
  show();
  if (store.synced && (!shown || shown.callback)) load(name);
}

/** Open a run that was started here, and show its warnings. */
export function begin(answer) {
  started = answer;
  router.go('runs', answer.id);
}

/** Open the next run of the view (1), or the one before (-1). */
export function step(by) {
  const next = neighbour(by);
  if (!next) return;
  stepped = true;
  router.swap('runs', store.address(next));
  announce(next.name);
}

function neighbour(by) {
  const runs = listed();
  return runs[runs.findIndex((run) => run.id === id) + by];
}

// To where it was opened; after some steps, to the row of the last one.
function leave(last) {
  const row = last && document.querySelector(`main:not([hidden]) a[href="${router.href('runs', store.address(last))}"]`);
  (opener.isConnected && !stepped ? opener : (row ?? opener)).focus();
}

// What was removed before the page was opened, and callbacks, are not in the stream.
async function load(asked) {
  try {
    const found = await api.status(id ?? asked);
    if (asked !== name) return;
    fetched = found;
    show();
    draw(shown);
  } catch (error) {
    if (asked === name && !shown) tell(error.message, 'failed');
  }
}

export function show() {
  for (const since of panel.querySelectorAll('[data-since]')) say(since, age(since.dataset.since));
  const service = name && (store.find(name) ?? fetched);
  if (!service) return;
  say($('detail-spent'), spent(service, Date.now()));
  for (const [button, by] of [['previous', -1], ['next', 1]]) mark($(`detail-${button}`), 'aria-disabled', !neighbour(by));
  if (service === shown) return;
  const before = shown?.status;
  shown = service;
  if (id !== service.id) {
    id = service.id;
    log.read();
  }
  draw(service);
  if (!before || before === service.status) return;
  announce(`${service.name} is ${service.status}`);
  log.retry();
  if (service.callback) setTimeout(() => service.id === id && load(name), DELIVERY);
}

function draw(service) {
  const { spec, error, tasks, attempts, result, ...rest } = service;
  const why = reason(service);
  say($('detail-name'), service.name);
  fill('status', service.status, (is) => [badge(is)]);
  tell(why, isBad(service) ? 'failed' : service.status);
  say($('detail-restarts'), restarted(service));
  fill('warnings', (started.id === id && started.warnings) || [], (all) => all.map((text) => el('li', {}, text)));
  fill('tasks', [tasks, error], tasksTable);
  fill('attempts', attempts ?? [], attemptsTable);
  fill('facts', { ...rest, callbacks: fetched?.callbacks }, facts);
  fold('whole', !why.toLowerCase().includes(error?.toLowerCase()) && short(error) && error);
  fold('past', attempts?.length);
  fold('spec', spec && JSON.stringify(spec, null, 2));
  offer(service);
}

function fill(part, told, make) {
  const json = JSON.stringify(told);
  if (drawn.get(part) === json) return;
  drawn.set(part, json);
  $(`detail-${part}`).replaceChildren(...make(told));
}

const tell = (text, is) => fill('error', [text, is], () => (text ? [badge(text, is)] : []));

function fold(part, told) {
  $(`detail-${part}`).hidden = !told;
  if (typeof told === 'string') say($(`detail-${part}`).lastElementChild, told);
}

// What can be done

const verb = () => (['complete', 'failed'].includes(shown.status) ? 'Remove' : 'Stop');

function offer({ status, spec, function: of }) {
  const no = of ? `It is an instance of the function ${of.name}.` : spec ? '' : 'It was not started by quartermaster.';
  for (const button of panel.querySelectorAll('footer button')) {
    const isStop = button.id === 'stop';
    const why = isStop ? denied.stop : (denied.run ?? no);
    button.hidden = isStop && status === 'removed';
    button.disabled = !!why;
    if (why && !$('detail-note').textContent) say($('detail-note'), why);
  }
  say($('stop'), `${verb()}…`);
}

// Without its scope a token is refused whatever the run: the buttons stay off.
function refuse(action, error) {
  if (error.status === 403 && error.message.startsWith('scopes')) denied[action] = error.message;
  say($('detail-note'), error.message);
  offer(shown);
}

function stop() {
  const { id: asked, name: called, spec } = shown;
  const how = `Sends ${spec?.stop_signal ?? 'SIGTERM'}, then SIGKILL after ${span(spec?.stop_grace_period ?? 10)}, then removes it.`;
  ask(`${verb()} ${called}?`, `${verb() === 'Stop' ? how : 'It has ended.'} Its exit code and output are kept.`, `${verb()} it`, async () => {
    try {
      await api.stop(asked);
      if (asked === id) say($('detail-note'), 'Stop was accepted.');
    } catch (error) {
      if (asked === id) refuse('stop', error);
      throw error;
    }
  });
}

// A name that is taken gets a number.
function specAgain() {
  const { spec } = shown;
  const isTaken = (called) => (store.find(called)?.status ?? 'removed') !== 'removed';
  let called = spec.name;
  for (let count = 2; called && isTaken(called); count++) called = `${spec.name.replace(/-r\d+$/, '').slice(0, 58)}-r${count}`;
  return called ? { ...spec, name: called } : spec;
}

const edit = (error) => form.open(specAgain(), shown.spec.env && 'The values of its environment are not kept: fill them in.', error);

async function again() {
  if (shown.spec.env) return edit();
  $('again').disabled = true;
  try {
    begin(await api.run(specAgain()));
  } catch (error) {
    refuse('run', error);
    if (error.status === 400 || error.status === 409) edit(error.message);
  }
}

async function share() {
  await copy(location.href);
  say($('detail-note'), 'The link was copied.');
}

// What is known

const row = (tag, cells) => el('tr', {}, ...cells.map((cell) => el(tag, {}, cell ?? '–')));
const since = (time) => el('span', { 'data-since': time, title: moment(time) }, age(time));
const table = (heads, rows) => el('table', {}, el('thead', {}, row('th', heads)), el('tbody', {}, ...rows.flat()));

// An error has a row of its own, where it is not told above.
function withError(cells, error, told) {
  const text = error === told ? '' : short(error);
  return [row('td', cells), ...(text ? [el('tr', { class: 'error', title: error }, el('td', { colspan: 5 }, text))] : [])];
}

function tasksTable([all, told]) {
  const rows = all.map(({ slot, state, node, exit_code: code, updated_at: at, error }) =>
    withError([slot, badge(state), node && link(node, 'nodes', node), code, since(at)], error, told));
  return all.length ? [el('h3', {}, 'Tasks'), table(['Slot', 'State', 'Node', 'Exit', 'Since'], rows)] : [];
}

function attemptsTable(all) {
  const rows = all.map(({ started_at: from, finished_at: to, exit_code: code, error }, i) =>
    withError([i + 1, code, from && to ? span((Date.parse(to) - Date.parse(from)) / 1000) : null, since(to)], error));
  return [table(['#', 'Exit', 'Ran', 'Since'], rows.reverse())];
}

function delivery({ delivered_at: at, attempts, last_error: error }) {
  if (at) return ` delivered ${moment(at)}`;
  return attempts ? ` not delivered yet, ${attempts} × tried: ${error}` : ' not sent yet';
}

function facts(service) {
  const { command, replicas, timeout, ttl, exit_code: code, owner, function: of, callback, callbacks } = service;
  const labels = Object.entries(service.labels).map((pair) => pair.join('='));
  const all = [
    ['Result', code === null ? null : `exit code ${code}`],
    ['Id', el('code', {}, service.id)],
    ['Type', service.type],
    ['Function', of && [link(of.name, 'functions', of.name), `, version ${of.version}`]],
    ['Image', el('code', {}, service.image)],
    ['Command', command ? el('code', {}, command.map(quote).join(' ')) : 'the image’s own'],
    ['Labels', labels.map((label) => el('a', { class: 'tag', href: router.href('live', '', { q: label }) }, label))],
    ['Owner', owner && link(owner, 'live', '', { q: owner })],
    ['Replicas', `${replicas.running} of ${replicas.desired} running, ${replicas.failed} failed`],
    ['Memory', service.memory && memory(service.memory)],
    ['Cores', service.cpus],
    ['Timeout', timeout && span(timeout)],
    ['Kept for', ttl && span(ttl)],
    ['Callback', callback && [el('code', {}, callback), ...(callbacks ?? []).map(delivery)]],
    ...['Created', 'Started', 'Finished', 'Removed'].map((what) => [what, moment(service[`${what.toLowerCase()}_at`])]),
  ];
  const known = all.map(([title, value]) => [title, [value ?? []].flat()]).filter(([, value]) => value.length);
  return known.flatMap(([title, value]) => [el('dt', {}, title), el('dd', {}, ...value)]);
}
