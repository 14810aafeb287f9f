// The frame of the views of history, functions and invocations: what is read, filtered, drawn, and read again.

import * as api from './api.js';
import { $, el, mark, say } from './dom.js';
import * as router from './router.js';
import { moment } from './words.js';

export const MOMENT = 'datetime-local'; // the type of a field
const BETWEEN = 5000; // milliseconds between two readings of what is in sight

/** What is shown of nothing. */
export const or = (is) => (is || is === 0 ? is : '–');
const many = (is) => [or(is)].flat();
export const link = (text, ...where) => el('a', { href: router.href(...where) }, text);
export const act = (text, action, of = '', is = '') => el('button', { class: is, 'data-do': action, 'data-of': of }, text);
export const time = (at) => at && el('time', { datetime: at }, moment(at));
export const text = (title, lines) => el('pre', { tabindex: 0, 'aria-label': title }, lines);
export const hint = (...words) => el('p', { class: 'hint' }, ...words);

/** A table of rows of cells; where the first is a link, it names the row, which keeps the focus when it moves. */
export function table(title, heads, rows) {
  const row = (cells) => el('tr', { 'data-key': many(cells[0])[0].hash }, ...cells.map((cell, i) => el('td', { 'data-head': heads[i] }, ...many(cell))));
  const head = el('tr', {}, ...heads.map((each) => el('th', { scope: 'col' }, each)));
  const parts = rows.length ? [el('thead', {}, head), el('tbody', {}, ...rows.map(row))] : [];
  return el('table', { class: 'list' }, el('caption', {}, rows.length ? title : `${title}: none`), ...parts);
}

/** Titles with what they name; those of nothing are left out. */
export const facts = (pairs) => el('dl', {}, ...pairs.filter(([, is]) => is).flatMap(([title, is]) => [el('dt', {}, title), el('dd', {}, ...many(is))]));

/**
 * read(route, state, more) is awaited for the state when the address changes, and every few seconds while due(state);
 * draw(state, route) returns its nodes, listed(state) the runs among them. `fields`, [name, label, choices, hint or `MOMENT`], are kept in the address.
 * A button or form calls the action in its data-do.
 */
export class View {
  #route;
  #state;
  #error;
  #readAt = 0;
  #turn = 0;

  constructor(id, { read, draw, listed, due = () => true, fields = [], actions }) {
    Object.assign(this, { read, draw, due, fields });
    this.listed = () => (listed && this.#state ? listed(this.#state) : []);
    this.root = $(id);
    this.form = el('form', { class: 'query', role: 'search' }, ...fields.map(field));
    this.root.append(this.form, el('div'));
    const all = { more: () => this.again(this.#state, true), news: () => this.again(null), ...actions };
    for (const type of ['click', 'submit']) this.root.addEventListener(type, (event) => called(event, all, this.#route.name));
    this.form.addEventListener('change', ({ target: { name, type, value } }) => {
      router.refine({ [name]: type === MOMENT && value ? new Date(value).toISOString() : value.trim() });
      this.enter(router.here());
    });
  }

  /** Take over an address. */
  enter(next) {
    for (const input of this.form) fill(input, next.query[input.name]);
    this.form.hidden = !this.fields.length || next.name;
    const before = this.#route;
    if (JSON.stringify([next.name, next.query]) === JSON.stringify([before?.name, before?.query])) return;
    if (next.name !== before?.name) this.#state = null;
    this.#route = next;
    this.paint();
    this.again(null);
  }

  /** Read again, or with `more` what follows. */
  async again(before = this.#state, more) {
    const mine = ++this.#turn;
    this.#readAt = Date.now();
    const reading = this.read(this.#route, before, more);
    const [found, problem] = await reading.then((all) => [all, ''], ({ message }) => [before, message]);
    if (mine !== this.#turn) return;
    [this.#state, this.#error] = [found, problem];
    this.paint();
  }

  paint() {
    const [state, error] = [this.#state, this.#error];
    const shown = state ? this.draw(state, this.#route) : error ? [] : [hint('Reading…')];
    renew(this.root.lastChild, el('div', {}, el('p', { class: 'error', role: 'alert' }, error ?? ''), ...shown));
  }

  show() {
    if (Date.now() - this.#readAt > BETWEEN && this.due(this.#state)) this.again();
  }

  /** Drop what this token has read, also what is on its way. */
  forget() {
    this.#turn += 1;
    this.#route = this.#state = this.#error = undefined;
    this.paint();
  }
}

function called(event, actions, name) {
  if (event.type === 'submit') event.preventDefault();
  const from = event.target.closest('[data-do]');
  if (from && (event.type === 'submit') === (from.localName === 'form')) actions[from.dataset.do](from.dataset.of, name);
}

function field([name, label, kind = '']) {
  const named = { name, 'aria-label': label };
  const option = (each) => el('option', { value: each[0] }, each[1] ?? each[0].replaceAll('_', ' '));
  if (Array.isArray(kind)) return el('label', {}, label, el('select', named, ...[['', 'any'], ...kind].map(option)));
  const typed = kind === MOMENT ? { type: MOMENT } : { type: 'search', placeholder: kind, autocomplete: 'off', spellcheck: 'false' };
  return el('label', {}, label, el('input', { ...named, ...typed }));
}

/** Show a filter of the address in its field. A moment is in UTC in the address, and local in its field. */
function fill(input, value = '') {
  const at = new Date(value);
  const isMoment = /^\d{4}-/.test(value) && at > 0;
  if (input.type !== MOMENT) input.value = value;
  else input.value = isMoment ? new Date(at - 60_000 * at.getTimezoneOffset()).toISOString().slice(0, 16) : '';
}

/** Make `old` look like `made`: what is equal stays in the document, with its focus, text and scroll. */
function renew(old, made) {
  if (old.isEqualNode(made)) return;
  if (!old.attributes) return say(old, made.textContent);
  for (const { name, value } of [...made.attributes]) mark(old, name, value);
  for (const { name } of [...old.attributes]) if (name !== 'open' && !made.hasAttribute(name)) mark(old, name);
  const keyed = new Map([...old.children].map((child) => [child.dataset.key, child]));
  let at = old.firstChild;
  for (const child of [...made.childNodes]) {
    const key = child.dataset?.key;
    const had = key ? keyed.get(key) : at;
    if (had && had.nodeName === child.nodeName && had.dataset?.key === key) {
      if (had === at) at = at.nextSibling;
      else old.insertBefore(had, at);
      renew(had, child);
    } else {
      old.insertBefore(child, at);
      if (at && !key && !at.dataset?.key) at = drop(at);
    }
  }
  while (at) at = drop(at);
}

function drop(node) {
  const next = node.nextSibling;
  node.remove();
  return next;
}

/** Read a listing: its first page, or one more; again, those that are shown stay where they are, and new ones are counted. */
export async function pages(path, key, query, before, more) {
  const page = more ? { page: before.next } : {};
  const answer = await api.get(`${path}?${new URLSearchParams({ limit: 50, ...query, ...page })}`);
  const [rows, next] = [answer[key], answer.next_page];
  if (more) return { ...before, rows: [...before.rows, ...rows], next };
  if (!before?.rows.length) return { rows, next, fresh: 0 };
  const read = new Map(rows.map((row) => [row.id, row]));
  const shown = before.rows.map((row) => read.get(row.id) ?? row);
  for (const { id } of shown) read.delete(id);
  return { ...before, rows: shown, fresh: read.size };
}

/** A listing as it was read: `made` is the table of its rows. */
export const listing = ({ rows, next, fresh }, made) => [
  fresh ? act(`Show ${fresh} new`, 'news', '', 'news') : '',
  made,
  el('p', { class: 'head' }, next ? act('Load more', 'more') : '', el('span', { class: 'hint', role: 'status' }, `${rows.length} shown${next ? ', there are more' : ''}`)),
];
