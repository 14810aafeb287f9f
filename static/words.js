// Pure: numbers, times and commands as people read them.

export function duration(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86400)} d`;
}

/** The same to the second: 0.3 s, 12 s, 1 min 30 s, 2 h 5 min. */
export function span(seconds) {
  if (seconds < 59.5) return `${Number(seconds.toFixed(seconds < 9.95 ? 1 : 0))} s`;
  const whole = Math.round(seconds);
  const [size, unit, part, next] = whole < 3600 ? [60, 'min', 1, 's'] : whole < 86400 ? [3600, 'h', 60, 'min'] : [86400, 'd', 3600, 'h'];
  const rest = Math.floor((whole % size) / part);
  return `${Math.floor(whole / size)} ${unit}${rest ? ` ${rest} ${next}` : ''}`;
}

export const age = (time) => (time ? duration((Date.now() - Date.parse(time)) / 1000) : '–');

function format(dateStyle) {
  const made = new Intl.DateTimeFormat(undefined, { dateStyle, timeStyle: 'medium', hourCycle: 'h23' });
  return (time) => time && made.format(Date.parse(time) || 0);
}

export const clock = format();
export const moment = format('medium');

export const memory = (mib) => (mib < 1024 ? `${Math.round(mib)} MiB` : `${Number((mib / 1024).toFixed(1))} GiB`);

export const plural = (count, word) => `${count} ${word}${count === 1 ? '' : 's'}`;

/** `image_not_found` → `image not found`; `exit` says no more than the status. */
export const why = (reason) => (!reason || reason === 'exit' ? '' : reason.replaceAll('_', ' '));

/** How a run has ended, also one that was removed since; else its status. */
export function outcome({ status, reason, exit_code: code }) {
  if (status === 'failed' && reason === 'stopped') return 'stopped';
  if (status !== 'removed' || !reason || reason === 'unschedulable') return status;
  if (['idle', 'update'].includes(reason) || (reason === 'exit' && code === 0)) return 'complete';
  return reason === 'stopped' ? 'stopped' : 'failed';
}

/** A word as a POSIX shell reads it back. */
export const quote = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

export const shortImage = (image) => image.replace(/@sha256:[0-9a-f]{64}$/, '');

/** The call that the form makes, for a terminal; the token is the shell's. */
export const curl = (url, body) =>
  `curl -H "Authorization: Bearer $TOKEN" ${quote(url)} \\\n  -d ${quote(JSON.stringify(body))}`;

/** Seconds of a call: 12 ms, 4.2 s. */
export const latency = (seconds) => (seconds < 1 ? `${Math.round(1000 * seconds)} ms` : span(seconds));

/** How long it was between two times, if both are known. */
export const took = (from, to) => from && to && latency(Math.max(0, Date.parse(to) - Date.parse(from)) / 1000);
