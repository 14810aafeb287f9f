// The form that runs something, made of the fields that GET /openapi.json tells; and the same call for a terminal.

import * as api from './api.js';
import { $, announce, copy, el, mark, say } from './dom.js';
import * as store from './store.js';
import { curl, quote, shortImage } from './words.js';

const FIRST = {
  image: { type: 'string', description: 'For instance `busybox:1.36`.' },
  command: { type: 'string', description: 'Split into words as a shell does. Empty: the image’s own.' },
};
const GROUPS = {
  '': 'type name env labels',
  Resources: 'memory cpus gpus generic_resources pids_limit shm_size ulimits',
  'Where it runs': 'replicas mode constraints',
  'How it ends': 'timeout ttl restart max_attempts restart_delay restart_window stop_signal stop_grace_period healthcheck callback',
  'Network and storage': 'ports networks hostname extra_hosts dns volumes tmpfs read_only secrets configs',
  'More options': '', // all others
};
const NOT_HERE = ['token', 'wait']; // the page has a token, and follows the run
const TITLES = { env: 'Environment', cpus: 'CPUs', gpus: 'GPUs', dns: 'DNS', ttl: 'TTL', pids_limit: 'PIDs limit' };
const HOW = { lines: 'One a line. ', pairs: '`NAME=value`, one a line. ' };
const IMAGES = 12; // of the newest runs, proposed
const LONG = 60_000; // characters: such a text is not trimmed
const form = $('form-fields');
const fields = new Map(); // name → {kind, input, only, strings, given: [text, value] as filled in}
let started, asked, edited;

/** onStarted({id, warnings}) is told what was started. */
export function start(onStarted) {
  started = onStarted;
  for (const [name, schema] of Object.entries(FIRST)) form.append(make(name, schema));
  mark(input('image'), 'list', 'images');
  $('curl').parentElement.open = Math.min(innerWidth, innerHeight) > 800;
  form.addEventListener('input', changed);
  form.addEventListener('submit', run);
  form.addEventListener('keydown', ({ key, ctrlKey, metaKey }) => key === 'Enter' && (ctrlKey || metaKey) && form.requestSubmit());
  $('copy').addEventListener('click', () => copy($('curl').textContent).then(() => say($('copy'), 'Copied')));
  $('form-check').addEventListener('click', check);
  $('run-open').addEventListener('click', () => open());
}

/** Open the form as it was left, or with a run's `spec`; `note` tells what is missing, `error` what was wrong with it. */
export async function open(spec, note = '', error = '') {
  if (spec || edited) clear();
  edited = spec;
  refuse('');
  say($('form-title'), spec ? 'Edit and run' : 'Run something');
  say($('form-note'), note);
  say($('copy'), 'Copy');
  propose();
  changed();
  $('form').showModal();
  input('image').focus();
  try {
    await (asked ??= api.get('openapi.json').then(build));
  } catch (failure) {
    asked = null; // the next time again
    return refuse(`The other fields could not be read: ${failure.message}`);
  }
  for (const [name, value] of Object.entries(spec ?? {})) fill(name, value);
  changed();
  if (error) refuse(error);
  else if (note) input('env').focus();
}

const input = (name) => fields.get(name)?.input;

function clear() {
  form.reset();
  for (const field of fields.values()) field.given = null;
  for (const group of form.querySelectorAll('details')) group.open = false;
}

function propose() {
  const runs = [...store.services.values()].sort((a, b) => Date.parse(b.created_at) - Date.parse(a.created_at));
  const images = [...new Set(runs.map(({ image }) => shortImage(image)))].slice(0, IMAGES);
  $('images').replaceChildren(...images.map((value) => el('option', { value })));
}

// The fields

function build({ components: { schemas } }) {
  const { properties } = schemas.RunRequest;
  const grouped = [...NOT_HERE, ...Object.values(GROUPS).join(' ').split(' ')];
  for (const [title, names] of Object.entries(GROUPS)) {
    const here = Object.keys(properties).filter((name) => !fields.has(name) && (names ? names.split(' ') : [name]).includes(name) && (names || !grouped.includes(name)));
    here.sort((a, b) => grouped.indexOf(a) - grouped.indexOf(b));
    const grid = el('div', { class: 'grid' }, ...here.map((name) => make(name, properties[name])));
    form.append(title ? el('details', {}, el('summary', {}, title), grid) : grid);
  }
}

function make(name, schema) {
  const { description } = schema;
  const id = `field-${name}`;
  const [kind, tag, ...values] = kindOf(name, schema);
  const [, usual] = description.match(/Default: `(.*?)`/) ?? [];
  const options = values.map((value) => el('option', { value }, value || (usual ? `default: ${usual}` : 'default')));
  const field = el(tag, { id, 'aria-describedby': `${id}-hint`, spellcheck: 'false', autocapitalize: 'none', autocomplete: 'off', rows: 1 }, ...options);
  const only = description.match(/(service|container)s only/i)?.[1].toLowerCase();
  fields.set(name, { kind, input: field, only, strings: schema.additionalProperties?.type === 'string' });
  const hint = (HOW[kind] ?? '') + description.replace(/ ?Default: .*/, '');
  const parts = hint.split('`').map((part, i) => (i % 2 ? el('code', {}, part) : part));
  const title = TITLES[name] ?? name[0].toUpperCase() + name.slice(1).replaceAll('_', ' ');
  return el('div', { class: 'field' }, el('label', { for: id }, title), field, el('p', { class: 'hint', id: `${id}-hint` }, ...parts));
}

// [how what is typed becomes JSON, element, what there is to choose]
function kindOf(name, schema) {
  const all = schema.anyOf ?? [schema];
  const has = (...types) => all.some(({ type }) => types.includes(type));
  const choices = all.find((each) => each.enum)?.enum;
  if (choices) return ['text', 'select', '', ...choices];
  if (has('boolean')) return ['json', 'select', '', 'true', 'false'];
  if (name === 'command' || name === 'entrypoint') return ['words', 'textarea'];
  if (has('array')) return ['lines', 'textarea'];
  if (has('object')) return ['pairs', 'textarea'];
  if (has('integer', 'number')) return ['json', 'input'];
  return all.some(({ maxLength }) => maxLength > LONG) ? ['long', 'textarea'] : ['text', 'input'];
}

// What is not changed is sent as it was: a list stays a list. The values of env are not known.
function fill(name, value) {
  const field = fields.get(name);
  if (!field) return;
  field.input.value = text(field.kind, value);
  field.given = name !== 'env' && [field.input.value, value];
  mark(field.input.closest('details') ?? form, 'open', '');
}

const show = (value) => (typeof value === 'object' ? JSON.stringify(value) : String(value));

function text(kind, value) {
  if (kind === 'words' && Array.isArray(value)) return value.map(quote).join(' ') || "''";
  if (Array.isArray(value)) return value.map((one) => show(one) + (kind === 'pairs' ? '=' : '')).join('\n');
  if (typeof value !== 'object') return String(value);
  return Object.entries(value).map(([key, one]) => key + (kind === 'pairs' ? '=' : ':') + show(one)).join('\n');
}

// A number, true, false or an object; what is none of them, such as 512m, stays text.
function json(typed) {
  try {
    return JSON.parse(typed);
  } catch {
    return typed.trim();
  }
}

const lines = (typed) => typed.split('\n').filter((line) => line.trim());
const VALUES = {
  json,
  lines: (typed) => lines(typed).map((line) => (line.trim()[0] === '{' ? json(line) : line.trim())),
  pairs: (typed, { strings }) =>
    Object.fromEntries(lines(typed).map((line) => line.match(/([^=]*)=?(.*)/s)).map(([, key, value]) => [key.trim(), strings ? value : json(value)])),
  long: (typed) => typed,
};

function request() {
  const type = input('type')?.value || 'service';
  const told = [...fields].map(([name, field]) => [name, field, field.input.value]);
  const sent = told.filter(([, { only = type, given }, typed]) => only === type && (typed.trim() || given?.[0] === typed));
  return Object.fromEntries(sent.map(([name, { given, ...field }, typed]) =>
    [name, given?.[0] === typed ? given[1] : (VALUES[field.kind]?.(typed, field) ?? typed.trim())]));
}

function changed() {
  const body = request();
  const { type = 'service' } = body;
  for (const { input: field, only = type } of fields.values()) field.closest('.field').hidden = only !== type;
  say($('curl'), curl(new URL('run', document.baseURI).href, { image: 'busybox', ...body }));
}

// The call

async function send(call, done) {
  const buttons = [$('form-go'), $('form-check')];
  if (buttons[0].disabled) return;
  refuse('');
  const body = request();
  if (!body.image) return refuse('image: name what is to run');
  const off = (is) => buttons.forEach((button) => (button.disabled = is));
  off(true);
  try {
    done(await call(body).finally(() => off(false)), body);
  } catch (error) {
    refuse(error.message);
  }
}

function run(event) {
  event.preventDefault();
  send(api.run, (answer) => {
    $('form').close();
    clear();
    announce('It was started.');
    started(answer);
  });
}

function check() {
  send(api.check, ({ image, spec, warnings }, body) => {
    const added = Object.keys(spec).filter((name) => !(name in body)).map((name) => ` With ${name}: ${show(spec[name])}.`);
    say($('form-note'), [`This would run ${image}.`, ...added, ' ', warnings.join(' ') || 'No warnings.'].join(''));
  });
}

// What is wrong begins with the field, its limit, or 'the name': it is told there.
function refuse(text) {
  for (const field of form.querySelectorAll('[aria-invalid]')) field.removeAttribute('aria-invalid');
  const [, word, bare] = text.match(/^(?:the )?((?:max_)?(\w+))/) ?? [];
  const field = input(word) ?? input(bare);
  if (field) field.closest('.field').append($('form-error'));
  else $('form-check').before($('form-error'));
  say($('form-error'), text);
  if (!text) return;
  if (!field) return $('form-go').focus();
  mark(field, 'aria-invalid', true);
  field.closest('details')?.setAttribute('open', '');
  field.focus();
}
