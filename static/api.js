// The few calls that are no stream: run, stop, the output. The token goes into a header.

let token = '';

export const hold = (given) => (token = given);
export const held = () => token;
export const run = (body) => call('run', body);
export const check = (body) => call('run?dry_run=1', body);
export const stop = (id) => call('stop', { id });
export const status = (id) => get(`status/${encodeURIComponent(id)}`);

/** Calls take({stream, line, …}) for each line of output, until it ends or the signal aborts. */
export async function lines(id, query, signal, take) {
  const headers = { Accept: 'application/x-ndjson' };
  const told = Object.entries(query).filter(([, value]) => value);
  const answer = await ask(`logs/${encodeURIComponent(id)}?${new URLSearchParams(told)}`, { headers, signal });
  const read = (text) => take(JSON.parse(text));
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const whole = (rest + part.value).split('\n');
    rest = whole.pop();
    whole.forEach(read);
  }
  if (rest) read(rest);
}

/** Return the decoded answer of a GET; `path` may have a query. */
export async function get(path, signal) {
  return (await ask(path, { signal })).json();
}

/** Return the Response of another call. */
export const send = (method, path, body, headers) => ask(path, { method, body, headers });

async function call(path, body) {
  return (await send('POST', path, JSON.stringify(body))).json();
}

/** Throws an Error with quartermaster's own words, its `status`, 0 where nothing answered, and the whole `problem`. */
async function ask(path, { headers, ...options }) {
  const fail = (status, text, problem) => Object.assign(new Error(text), { status, problem });
  const authorized = { ...headers, Authorization: `Bearer ${token}` };
  const answer = await fetch(new URL(path, document.baseURI), { ...options, headers: authorized }).catch((error) => {
    throw error.name === 'AbortError' ? error : fail(0, 'quartermaster does not answer: try again');
  });
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  throw fail(answer.status, problem.error ?? `quartermaster answered ${answer.status}`, problem);
}
