// The named functions with their numbers; of each its versions, schedules, instances and calls, and a call to try.

import * as api from './api.js';
import { ask } from './ask.js';
import { sparkline } from './charts.js';
import { badge, el } from './dom.js';
import * as invocations from './invocations.js';
import { View, act, facts, link, or, table, text, time } from './lists.js';
import * as router from './router.js';
import { age, latency, quote, shortImage } from './words.js';

const HEADS = ['Function', 'Version', 'Runtime', 'Instances', 'Calls a minute', 'p50', 'p95', 'Errors', 'Next tick', 'Owner'];
const MOST_DOTS = 12;
const MOST_TEXT = 100_000; // characters of an answer
const url = (path) => new URL(path, document.baseURI).href;
const of = (name, rest = '') => `functions/${encodeURIComponent(name)}${rest}`;
const optional = (path) => api.get(path).catch(() => ({})); // this token, or this server, may have none of it
let refused = ''; // why the last function was not published
let opened, typed, answer, busy;

class Functions extends View {
  enter(route) {
    if (route.name !== opened) [opened, typed, answer] = [route.name, {}, () => []];
    super.enter(route);
  }

  forget() {
    opened = undefined;
    refused = '';
    super.forget();
  }
}

const draw = (state, { name }) => (name ? page(state) : list(state));
export const view = new Functions('functions', { read, draw, listed: ({ services }) => services ?? [], actions: { invoke, publish, rollback, remove } });
view.root.addEventListener('input', ({ target: { form } }) => {
  if (form.dataset.do !== 'invoke') return;
  typed = { body: form.elements.body.value, later: form.elements.later.checked };
  view.paint();
});
view.root.addEventListener('keydown', ({ key, ctrlKey, metaKey, target }) => key === 'Enter' && (ctrlKey || metaKey) && target.form?.requestSubmit());

async function read({ name }) {
  const main = api.get(name ? of(name) : 'functions');
  const parts = name ? [of(name, '/versions'), `status?function=${name}&limit=50`, `invocations?function=${name}&limit=10`] : [];
  const [one, { functions: stats = {} }, ...rest] = await Promise.all([main, ...['stats?minutes=60', ...parts].map(optional)]);
  return Object.assign({ stats }, ...rest, one);
}

function list({ functions, stats }) {
  const input = (name, label, more) => el('label', {}, label, el('input', { name, required: true, autocomplete: 'off', spellcheck: 'false', ...more }));
  const spec = el('label', {}, 'The rest, as JSON', el('textarea', { name: 'spec', rows: 3, spellcheck: 'false', placeholder: '{"memory": 256, "timeout": 30}' }));
  const form = el('form', { 'data-do': 'publish', class: 'card trial' },
    input('name', 'Name'), input('image', 'Image', { placeholder: 'user/function:1' }), spec,
    el('p', { class: 'head' }, el('button', { class: 'primary' }, 'Publish'), el('span', { class: 'hint' }, 'A name that is there gets a new version.')),
    el('p', { class: 'error', role: 'alert' }, refused));
  return [table('Functions', HEADS, functions.map((one) => row(one, stats))),
    el('details', { class: 'publish', open: !functions.length }, el('summary', {}, 'Publish a function…'), form)];
}

async function publish() {
  const { name, image, spec } = view.root.querySelector('form[data-do="publish"]').elements;
  refused = '';
  try {
    const rest = JSON.parse(spec.value || '{}');
    await api.send('PUT', of(name.value), JSON.stringify({ image: image.value, ...rest }));
    router.go('functions', name.value);
  } catch (error) {
    refused = error instanceof SyntaxError ? `The rest is no JSON: ${error.message}` : error.message;
    view.paint();
  }
}

function row({ name, version, image, owner, spec, instances, schedules }, stats) {
  const next = schedules.map((each) => each.next).filter(Boolean).sort()[0];
  const title = [link(name, 'functions', name), el('span', { class: 'image' }, shortImage(image))];
  return [title, version, spec.runtime, dots(instances), ...numbers(stats[name]), time(next), owner];
}

/** Calls in the last whole minute, the latest p50 and p95, and the errors of an hour. */
function numbers({ calls, errors, p50, p95 } = {}) {
  const last = (all) => all?.findLast((each) => each !== null);
  const failed = errors?.reduce((sum, each) => sum + each, 0);
  const each = calls && [`${calls.at(-2)} `, sparkline(calls.slice(0, -1), `Calls a minute in the last hour, at most ${Math.max(...calls)}`)];
  return [each, ...[p50, p95].map((all) => last(all) !== undefined && latency(last(all))), failed ? el('span', { 'data-bad': '' }, failed) : failed];
}

function dots(counts) {
  const shown = Object.entries({ busy: 'running', idle: 'idle', starting: 'preparing' }).filter(([word]) => counts[word]);
  const signs = shown.flatMap(([word, is]) => Array.from({ length: counts[word] }, () => el('i', { class: 'status', 'data-is': is }, el('i'))));
  return [el('span', { class: 'dots', 'aria-hidden': 'true' }, ...signs.slice(0, MOST_DOTS)), shown.map(([word]) => `${counts[word]} ${word}`).join(', ') || 'none'];
}

function page({ stats, name, version, image, owner, spec, published_at: at, instances, queued, last_errors: errors, services, versions, schedules, invocations: calls }) {
  const [each, p50, p95, failed] = numbers(stats[name]).map(or);
  const parts = [
    facts([
      ['Image', el('code', {}, image)],
      ['Published', [time(at), ` by ${owner}`]],
      ['Runtime', spec.runtime],
      ['Instances', dots(instances)],
      ['Calls a minute', each],
      ['Calls', [`p50 ${p50}, p95 ${p95}, ${queued} queued, errors in an hour `, failed]],
      ['URL', spec.url !== 'none' && el('a', { href: `fn/${name}/` }, `/fn/${name}/ (${spec.url})`)],
    ]),
    el('details', {}, el('summary', {}, 'Spec'), text('Spec', JSON.stringify(spec, null, 2))),
    errors.length ? table('Last errors', ['Time', 'Reason', 'Error'], errors.map((error) => [time(error.time), error.reason, error.message])) : '',
    schedules.length ? table('Schedules', ['Cron', 'Time zone', 'Last tick', 'Next tick'], schedules.map(schedule)) : '',
    table('Versions', ['Version', 'Image', 'Published', 'By', ''], (versions ?? []).map((one) => past(one, version))),
    table('Instances', ['Run', 'Status', 'Version', 'Age'], (services ?? []).map((run) => [link(run.name, 'runs', run.id), badge(run.status), run.function?.version, age(run.created_at)])),
    link('All instances', 'history', '', { function: name }),
    ...(calls ? [invocations.calls(calls), link('All asynchronous calls', 'invocations', '', { function: name })] : []),
  ];
  const head = el('div', { class: 'head' }, el('h2', {}, name), el('span', { class: 'tag' }, `version ${version}`), act('Delete…', 'remove', '', 'danger'));
  return [head, el('div', { class: 'split' }, trial(name), el('div', {}, ...parts))];
}

const schedule = ({ cron, time_zone: zone, last, next, suspend }) => [el('code', {}, cron), zone, time(last), suspend ? 'suspended' : time(next)];
const past = ({ version, image, published_at: at, owner }, newest) => [
  version, el('code', {}, shortImage(image)), time(at), owner, version === newest ? 'in use' : act('Roll back…', 'rollback', version),
];

function rollback(version, name) {
  ask(`Roll back ${name}?`, `Version ${version} is published again, as the newest, with the image that it had.`, 'Roll back', async () => {
    await api.send('POST', of(name, '/rollback'), `{"version": ${version}}`);
    view.again();
  });
}

function remove(_, name) {
  ask(`Delete ${name}?`, 'All its versions go. Calls that run are finished; those that wait are cancelled.', 'Delete it', async () => {
    await api.send('DELETE', of(name));
    router.go('functions');
  });
}

function trial(name) {
  const curl = ['curl', '-H "Authorization: Bearer $TOKEN"', typed.later && "-H 'Prefer: respond-async'", quote(url(of(name, '/invoke'))), typed.body ? `-d ${quote(typed.body)}` : '-X POST'];
  const body = el('textarea', { name: 'body', rows: 4, placeholder: '{}', spellcheck: 'false' });
  const later = el('label', {}, el('input', { type: 'checkbox', name: 'later' }), ' asynchronous');
  const form = el('form', { 'data-do': 'invoke' }, el('label', {}, 'Body', body), el('p', { class: 'head' }, el('button', { class: 'primary' }, 'Invoke'), later, el('span', { class: 'hint' }, 'Ctrl+Enter')));
  return el('section', { class: 'card trial', 'aria-label': 'Invoke' }, form, text('The same call with curl', curl.filter(Boolean).join(' ')), el('div', { role: 'status' }, ...answer()));
}

async function invoke(_, name) {
  if (busy) return;
  const tell = (is, told, body = '', ...to) => {
    const linked = to.length ? [link(to[1].slice(0, 13), ...to)] : [];
    answer = () => [el('p', { class: 'head' }, badge(is), told, ...linked), body && text('Answer', body.slice(0, MOST_TEXT))];
    if (name === opened) view.paint();
  };
  busy = true;
  tell('running', '');
  try {
    const { status, headers, body } = await api.send('POST', of(name, '/invoke'), typed.body || undefined, typed.later ? { Prefer: 'respond-async' } : {});
    const got = (key) => headers.get(`Qmaster-${key}`);
    const shown = readable(await new Response(body).arrayBuffer());
    if (status === 202) tell('queued', 'accepted as', '', 'invocations', JSON.parse(shown).id);
    else tell('succeeded', `${latency(got('Duration-Ms') / 1000)}, ${got('Cold') === 'true' ? 'cold' : 'warm'}, version ${got('Version')}, instance`, shown, 'runs', got('Instance') ?? '');
  } catch (error) {
    const { error_type: type, error_message: said, stack = [], last_lines: lines = [] } = error.problem ?? {};
    tell('failed', error.message, [type && `${type}: ${said}`, ...stack, ...lines].filter(Boolean).join('\n'));
  }
  busy = false;
  view.again();
}

/** Return JSON indented, other text as it is, and of other bytes how many there are, and the first in hexadecimal. */
function readable(bytes) {
  let decoded;
  try {
    decoded = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    return JSON.stringify(JSON.parse(decoded), null, 2);
  } catch {
    if (decoded !== undefined) return decoded;
  }
  const first = [...new Uint8Array(bytes, 0, Math.min(256, bytes.byteLength))].map((each) => each.toString(16).padStart(2, '0'));
  return `${bytes.byteLength} bytes that are no text\n${first.join(' ').replace(/(.{47}) /g, '$1\n')}${bytes.byteLength > 256 ? ' …' : ''}`;
}
