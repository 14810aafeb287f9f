// Runs that were, the removed ones too: by outcome, time, name and owner.

import { badge, el } from './dom.js';
import { MOMENT, View, link, listing, pages, table, time } from './lists.js';
import * as store from './store.js';
import { outcome, shortImage, took, why } from './words.js';

const HEADS = ['Run', 'Outcome', 'Exit', 'Created', 'Waited', 'Ran', 'Owner'];
const OUTCOMES = ['complete', 'failed', 'stopped'];
const words = (all) => all.map((each) => [each]);
const FIELDS = [
  ['q', 'Name'],
  ['status', 'Outcome', words([...OUTCOMES, 'running', 'pending'])],
  ['since', 'Time', [['1h', 'last hour'], ['1d', 'last day'], ['7d', 'last week'], ['30d', 'last 30 days']]],
  ['since', 'From', MOMENT],
  ['until', 'To', MOMENT],
  ['reason', 'Reason', words(['timeout', 'oom', 'unhealthy', 'rejected', 'image_not_found', 'registry_auth', 'node_down', 'orphaned'])],
  ['image', 'Image', 'busybox, team/*'],
  ['label', 'Label', 'key=value'],
  ['owner', 'Owner'],
  ['function', 'Instances of', 'a function'],
];
let seen;

const newest = ({ rows }) => rows.map((run) => store.services.get(run.id) ?? run); // the stream is newer
export const view = new View('history', { fields: FIELDS, read, draw, listed: newest, due: () => seen !== store.seen });

function read({ query: { q, status, ...rest } }, ...more) {
  seen = store.seen;
  const wanted = { ...rest, name: q && (q.includes('*') ? q : `*${q}*`), [OUTCOMES.includes(status) ? 'outcome' : 'status']: status };
  return pages('status', 'services', { all: 1, function: '', ...Object.fromEntries(Object.entries(wanted).filter(([, value]) => value)) }, ...more);
}

function draw(list) {
  return listing(list, table('History', HEADS, newest(list).map(row)));
}

function row(run) {
  const { name, image, reason, owner, status, exit_code: code, created_at: created, started_at: started, finished_at: finished } = run;
  const is = outcome(run);
  const told = [is !== 'stopped' && why(reason), is !== status && status === 'removed' && 'removed'].filter(Boolean).join(', ');
  return [
    [link(name, 'runs', store.address(run)), el('span', { class: 'image' }, shortImage(image))],
    [badge(is), el('span', { class: 'why' }, told)],
    code && el('span', { 'data-bad': '' }, code),
    time(created),
    took(created, started),
    took(started, finished),
    owner,
  ];
}
