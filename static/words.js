// Pure: numbers, times and commands as people read them.

export function duration(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86400)} d`;
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

/** A word as a POSIX shell reads it back. */
export const quote = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

export const shortImage = (image) => image.replace(/@sha256:[0-9a-f]{64}$/, '');

/** The call that the form makes, for a terminal; the token is the shell's. */
export const curl = (url, body) =>
  `curl -H "Authorization: Bearer $TOKEN" ${quote(url)} \\\n  -d ${quote(JSON.stringify(body))}`;
