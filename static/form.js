// The form that runs something, and the same call for a terminal.

import * as api from './api.js';
import { $, announce, el, say } from './dom.js';
import { curl } from './words.js';

// field, label, kind (how what is typed becomes JSON, or the choices), hint
const FIELDS = [
  ['image', 'Image', 'text', 'for instance busybox:1.36'],
  ['command', 'Command', 'text', 'split into words as a shell does; empty: the image’s own'],
  ['type', 'Type', ['service', 'container'], 'a service on any node, or a container on this engine'],
  ['name', 'Name', 'text', 'empty: made from the image'],
  ['replicas', 'Replicas', 'number', 'how many at once; services only'],
  ['memory', 'Memory (MiB)', 'number', 'reserved for it; its limit'],
  ['cpus', 'Cores', 'number', 'for instance 0.5'],
  ['restart', 'Restart', ['none', 'on-failure', 'any'], 'none: it runs once'],
  ['constraints', 'Constraints', 'lines', 'node.role==worker, one a line; services only'],
  ['timeout', 'Timeout (s)', 'number', 'how long it may run'],
  ['ttl', 'Keep for (s)', 'number', 'then it is removed'],
  ['env', 'Environment', 'pairs', 'NAME=value, one a line'],
  ['labels', 'Labels', 'pairs', 'key=value, one a line'],
];
const FIRST = 3; // of them are always in sight
const lines = (text) => text.split('\n').map((line) => line.trim()).filter(Boolean);
const VALUES = {
  number: (text) => (Number.isFinite(Number(text)) ? Number(text) : text), // the server says what is wrong with it
  lines,
  pairs: (text) => Object.fromEntries(lines(text).map((line) => line.match(/([^=]*)=?(.*)/s).slice(1))),
};
const form = $('form-fields');
const input = (name) => $(`field-${name}`);
let started;

/** onStarted(id) is told what was started. */
export function start(onStarted) {
  started = onStarted;
  const fields = FIELDS.map((field) => make(...field));
  const more = el('div', { class: 'grid' }, ...fields.slice(FIRST));
  form.append(...fields.slice(0, FIRST), el('details', {}, el('summary', {}, 'More options'), more));
  form.addEventListener('input', preview);
  form.addEventListener('submit', run);
  $('copy').addEventListener('click', copy);
  $('run-open').addEventListener('click', open);
}

export function open() {
  say($('form-error'), '');
  preview();
  say($('copy'), 'Copy');
  $('form').showModal();
  input('image').focus();
}

function make(name, title, kind, hint) {
  const id = `field-${name}`;
  const choices = Array.isArray(kind) ? kind.map((each) => el('option', {}, each)) : [];
  const tag = choices.length ? 'select' : ['pairs', 'lines'].includes(kind) ? 'textarea' : 'input';
  const field = el(tag, { id, 'aria-describedby': `${id}-hint`, spellcheck: 'false', autocapitalize: 'none' }, ...choices);
  return el('div', { class: 'field' }, el('label', { for: id }, title), field, el('p', { class: 'hint', id: `${id}-hint` }, hint));
}

function request() {
  const typed = FIELDS.map(([name, , kind]) => [name, kind, input(name).value.trim()]);
  const told = typed.filter(([, kind, text]) => text && text !== kind[0]);
  return Object.fromEntries(told.map(([name, kind, text]) => [name, VALUES[kind]?.(text) ?? text]));
}

function preview() {
  say($('curl'), curl(new URL('run', document.baseURI).href, { image: 'busybox', ...request() }));
}

async function run(event) {
  event.preventDefault();
  for (const field of form.querySelectorAll('[aria-invalid]')) field.removeAttribute('aria-invalid');
  const body = request();
  if (!body.image) return refuse('image: name what is to run');
  $('form-go').disabled = true;
  say($('form-error'), '');
  try {
    const { id } = await api.run(body).finally(() => ($('form-go').disabled = false));
    $('form').close();
    announce('It was started.');
    started(id);
  } catch (error) {
    refuse(error.message);
  }
}

// What is wrong begins with the field, its limit, or 'the name'.
function refuse(text) {
  say($('form-error'), text);
  const field = input(text.match(/^(?:the |max_)?(\w+)/)?.[1]);
  if (!field?.closest('.field')) return $('form-go').focus();
  field.setAttribute('aria-invalid', 'true');
  field.closest('details')?.setAttribute('open', '');
  field.focus();
}

async function copy() {
  try {
    await navigator.clipboard.writeText($('curl').textContent);
  } catch {
    getSelection().selectAllChildren($('curl')); // plain HTTP has no clipboard
    document.execCommand('copy');
  }
  say($('copy'), 'Copied');
}
