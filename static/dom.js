// Elements, made by calls: what comes from the swarm is never markup.

export const $ = (id) => document.getElementById(id);

/** The view that is shown. */
export const main = () => [...document.querySelectorAll('main')].find((each) => each.checkVisibility());

/** el('p', {class: 'hint', onclick: f}, 'text', node), without attributes that are null, undefined or false. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value !== false) mark(node, name, value === true ? '' : value);
  }
  node.append(...children);
  return node;
}

/** Touches the document only where something changes; so does `mark`. */
export function say(node, text) {
  if (node.textContent !== String(text)) node.textContent = text;
}

export function mark(node, name, value) {
  if (value === null || value === undefined) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

/** Puts these nodes into `parent`, in this order, with the fewest moves; `first` stays in front of them. */
export function arrange(parent, nodes, first = null) {
  for (const node of nodes) {
    const next = first ? first.nextSibling : parent.firstChild;
    if (next !== node) parent.insertBefore(node, next);
    first = node;
  }
}

// The shape, one of eight, of every other word.
const SHAPES = {
  created: 'pending', restarted: 'stopping', new: 'pending', joined: 'running', active: 'running',
  queued: 'pending', busy: 'running', succeeded: 'complete', dead: 'failed', stopped: 'removed', cancelled: 'removed',
  rejected: 'failed', down: 'failed', disconnected: 'failed', orphaned: 'unknown', gap: 'unknown',
  shutdown: 'removed', remove: 'removed', drain: 'stopping', pause: 'stopping',
  assigned: 'preparing', accepted: 'preparing', ready: 'preparing', starting: 'preparing',
  live: 'running', stale: 'stopping', reconnecting: 'pending', connecting: 'preparing', refused: 'failed', off: 'removed',
};

export const shape = (word) => SHAPES[word] ?? word;

/** A node that is ready is up; a task that is ready has yet to start. */
export const nodeShape = (word) => (word === 'ready' ? 'running' : word);

/** A status or state: its shape and its word. */
export const badge = (word, is = word) =>
  el('span', { class: 'status', 'data-is': shape(is) }, el('i', { 'aria-hidden': 'true' }), el('span', {}, word));

/** A message on top of the page, until it is dismissed; '' dismisses it. */
export function notice(text) {
  $('notice').hidden = !text;
  say($('notice').firstChild, text);
}

export const announce = (text) => say($('announcer'), text);

/** Put this text on the clipboard. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el('textarea', { class: 'unseen', readonly: true }, text); // plain HTTP has no clipboard
    const before = document.activeElement;
    (document.querySelector('dialog[open]') ?? document.body).append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
    before?.focus();
  }
}
