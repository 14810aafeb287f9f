// Asynchronous calls of functions: a list, and of each its attempts, its output and its callbacks.

import * as api from './api.js';
import { ask } from './ask.js';
import { badge, el } from './dom.js';
import { View, act, facts, link, listing, pages, table, text, time } from './lists.js';
import { took } from './words.js';

const HEADS = ['Call', 'Function', 'Status', 'Attempts', 'Accepted', 'Took', 'Owner'];
const FIELDS = [['function', 'Function'], ['status', 'Status', ['queued', 'running', 'succeeded', 'dead', 'cancelled'].map((each) => [each])]];

const draw = (state, { name }) => (name ? page(state) : listing(state, table('Invocations', HEADS, state.rows.map(row))));
const read = ({ name, query }, ...more) => (name ? api.get(`invocations/${encodeURIComponent(name)}`) : pages('invocations', 'invocations', query, ...more));

export const calls = (rows) => table('Asynchronous calls', HEADS, rows.map(row));

const row = ({ id, function: name, version, status, attempts, scheduled_at: tick, ...at }) => [
  link(id.slice(0, 13), 'invocations', id),
  [link(name, 'functions', name), ` v${version}`],
  badge(status),
  attempts.length,
  [time(at.created_at), tick ? ' by schedule' : ''],
  took(at.started_at, at.ended_at),
  at.owner,
];

function page({ id, function: name, version, status, owner, scheduled_at: tick, attempts, callbacks, error, ...rest }) {
  const tries = attempts.map(({ started_at: from, ended_at: to, instance, error: failed }, i) => [
    i + 1, time(from), took(from, to), instance && link(instance.slice(0, 12), 'runs', instance), failed && `${failed.type}: ${failed.message}`,
  ]);
  const told = callbacks.map(({ url, delivered_at: at, attempts: count, last_error: last }) => [url, time(at), count, last]);
  const output = rest.output_base64 ?? rest.output;
  return [
    el('div', { class: 'head' }, el('h2', {}, `Call of ${name}`), badge(status), status === 'queued' ? act('Cancel…', 'cancel', '', 'danger') : '', status === 'dead' ? act('Redrive…', 'redrive') : ''),
    facts([['Id', el('code', {}, id)], ['Function', [link(name, 'functions', name), ` v${version}`]], ['Owner', owner], ['Tick', time(tick)], ['Accepted', time(rest.created_at)], ['Ended', time(rest.ended_at)]]),
    error ? text('Error', [`${error.type}: ${error.message}`, ...error.stack].join('\n')) : '',
    output === undefined ? '' : text('Output', typeof output === 'string' ? output : JSON.stringify(output, null, 2)),
    table('Attempts', ['Attempt', 'Started', 'Took', 'Instance', 'Error'], tries),
    callbacks.length ? table('Callbacks', ['URL', 'Delivered', 'Tries', 'Last error'], told) : '',
  ];
}

const change = (title, told, yes, method, path) =>
  ask(title, told, yes, async () => {
    await api.send(method, `invocations/${path}`);
    view.again();
  });
const cancel = (_, id) => change('Cancel this call?', 'It waits, and will not be made.', 'Cancel it', 'DELETE', id);
const redrive = (_, id) => change('Redrive this call?', 'It is queued again, with all its attempts.', 'Redrive it', 'POST', `${id}/redrive`);
export const view = new View('invocations', { fields: FIELDS, read, draw, due: (state) => !state?.ended_at, actions: { cancel, redrive } });
